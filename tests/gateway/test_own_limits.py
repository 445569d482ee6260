"""What the gateway itself runs out of, and what it must count: never at a request's or a replica's cost."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from melange_sky.gateway.own_limits import raise_file_limit
from melange_sky.planfile import dump_plan
from tests.gateway.bed import FAST, MODEL, bed, run, split_plan, together
from tests.gateway.replica import Replica
from tests.gateway.test_command import KEY, Running, replica, url


def one(**over: float) -> dict[str, list[Replica]]:
    return {"small": [Replica("a", **over)]}  # type: ignore[arg-type]


ONLY_SMALL = split_plan(left=1.0)


def test_the_soft_limit_of_open_files_is_raised_and_told() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        limit = raise_file_limit(8192)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit.most > 256
        assert limit.raised_from == 256
        assert f"open files: {limit.most} (raised from 256)" in str(limit)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@run
async def test_more_requests_than_files_get_503_and_no_replica_is_blamed() -> None:
    replicas = {"small": [Replica("a", itl_s=0.1), Replica("b", itl_s=0.1)]}
    async with bed(replicas, ONLY_SMALL) as b:
        b.gateway.front.most_requests = 20
        body = {"model": MODEL, "prompt": "x", "max_tokens": 8, "stream": True}

        async def ask() -> tuple[int, bool]:
            async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
                await r.read()
                return r.status, "Retry-After" in r.headers

        answers = Counter(await together([ask() for _ in range(50)]))
        assert answers == {(200, False): 20, (503, True): 30}
        now_s = asyncio.get_running_loop().time()
        assert all(x.healthy(now_s) for x in b.gateway.fleet.backends)


STREAMS = """
import asyncio, collections, json, sys, aiohttp
async def main():
    body = {"model": sys.argv[2], "prompt": "x", "max_tokens": 40, "stream": True}
    async def ask(s):
        try:
            async with s.post(sys.argv[1] + "/v1/completions", json=body) as r:
                text = await r.text()
                whole = r.status != 200 or text.endswith("[DONE]\\n\\n")
                return f"{r.status} {whole} {'Retry-After' in r.headers}"
        except aiohttp.ClientError as e:
            return type(e).__name__
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as s:
        got = await asyncio.gather(*(ask(s) for _ in range(int(sys.argv[3]))))
    print(json.dumps(collections.Counter(got)))
asyncio.run(main())
"""


@pytest.mark.parametrize("streams", [150, 400])
def test_ulimit_256_serves_up_to_the_limit(tmp_path: Path, streams: int) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(dump_plan(split_plan(left=1.0)), encoding="utf-8")

    async def serve() -> tuple[dict[str, int], str]:
        a, c = await Replica("a", itl_s=0.05).start(), await Replica("b", itl_s=0.05).start()
        gateway = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            f'ulimit -n 256 && exec "{sys.executable}" -m melange_sky -v gateway "$@"',
            "-",
            str(plan),
            *("--backend", f"small={a.url}", "--backend", f"small={c.url}", "--port", "0"),
            stderr=asyncio.subprocess.PIPE,
        )
        assert gateway.stderr is not None
        said = ""
        while "listening on http" not in said:
            said += (await gateway.stderr.readline()).decode()
        at = said.split("listening on ")[1].split(" ")[0]
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", STREAMS, at, MODEL, str(streams)), stdout=subprocess.PIPE
        )
        out, _ = await client.communicate()
        gateway.send_signal(signal.SIGTERM)
        said += (await gateway.stderr.read()).decode()
        assert await gateway.wait() == 0
        await a.stop()
        await c.stop()
        return json.loads(out), said

    got, said = asyncio.run(serve())
    assert set(got) == {"200 True False", "503 True True"}, got
    assert got["200 True False"] >= 75, got
    assert "left out" not in said and "Traceback" not in said
    assert "open files: 256" in said


@run
async def test_large_answers_are_kept_on_disk_and_bounded() -> None:
    replicas = one()
    text = json.dumps(
        {
            "choices": [{"text": "x" * 6_000_000}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 4, "details": {"cached": 1}},
        }
    ).encode()
    replicas["small"][0].whole = ({"Content-Type": "application/json"}, text)
    settings = dataclasses.replace(FAST, answer_bytes=8_000_000)
    async with bed(replicas, ONLY_SMALL, settings) as b:
        status, body = await b.complete()
        assert (status, len(body["choices"][0]["text"])) == (200, 6_000_000)
        assert await b.metric("melange_gateway_tokens_total", kind="output") == 4
        replicas["small"][0].whole = ({"Content-Type": "application/json"}, text + text)
        status, body = await b.complete()
        assert (status, body["error"]["code"]) == (502, "answer_too_large")


@run
async def test_bodies_are_held_within_a_bound_and_given_back() -> None:
    replicas = one(ttft_s=0.3)
    settings = dataclasses.replace(FAST, held_bytes=1_300_000, body_bytes=400_000)

    async def parts() -> AsyncIterator[bytes]:
        yield json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 1}).encode()

    async with bed(replicas, ONLY_SMALL, settings) as b:

        async def chunked() -> int:
            async with b.client.post(f"{b.url}/v1/completions", data=parts()) as r:
                return r.status

        calls = [b.complete(words=60_000, max_tokens=1) for _ in range(8)]
        answers = Counter(status for status, _ in await together(calls))
        assert answers == {200: 4, 503: 4}
        assert b.gateway.front._held_bytes == 0
        assert Counter(await together([chunked() for _ in range(3)])) == {200: 3}
        assert b.gateway.front._held_bytes == 0


@run
async def test_how_much_may_be_asked_for_is_bounded() -> None:
    replicas = one()
    async with bed(replicas, ONLY_SMALL) as b:
        for over in ({"n": 2**31 - 1}, {"n": 300}, {"prompt": ["x"] * 100_000}):
            status, body = await b.complete(**over)
            assert (status, body["error"]["type"]) == (400, "invalid_request_error"), over
        assert replicas["small"][0].seen == []
        assert (await b.complete(n=8))[0] == 200


@pytest.mark.parametrize("text", ["\ud800", "ab\udfffcd", "\ud83d" * 50])
@run
async def test_half_an_emoji_goes_through(text: str) -> None:
    replicas = one()
    async with bed(replicas, ONLY_SMALL) as b:
        body = json.dumps({"model": MODEL, "prompt": text}).encode()
        async with b.client.post(f"{b.url}/v1/completions", data=body) as r:
            assert r.status == 200
        chat = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": text}]})
        async with b.client.post(f"{b.url}/v1/chat/completions", data=chat.encode()) as r:
            assert r.status == 200
        assert replicas["small"][0].seen[0]["prompt"] == text


USAGES = [
    '{"prompt_tokens": -5, "completion_tokens": -1}',
    '{"prompt_tokens": 1' + "0" * 4000 + ', "completion_tokens": 3}',
    '{"prompt_tokens": 1e400, "completion_tokens": NaN}',
    '{"prompt_tokens": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"prompt_tokens": true, "completion_tokens": "3"}',
    "[1, 2]",
    "null",
    '{"prompt_tokens": 9007199254740993, "completion_tokens": 4611686018427387904}',
]


@pytest.mark.parametrize("usage", USAGES, ids=range(len(USAGES)))
@run
async def test_an_answer_with_odd_usage_goes_through(usage: str) -> None:
    replicas = one()
    text = b'{"choices": [{"text": "kept"}], "usage": ' + usage.encode() + b"}"
    replicas["small"][0].whole = ({"Content-Type": "application/json"}, text)
    async with bed(replicas, ONLY_SMALL) as b:
        body = {"model": MODEL, "prompt": "x"}
        async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
            assert (r.status, await r.read()) == (200, text)


@run
async def test_a_compressed_answer_keeps_its_encoding_and_is_counted() -> None:
    replicas = one()
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    text = json.dumps({"choices": [{"text": "kept"}], "usage": usage}).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    replicas["small"][0].whole = (headers, gzip.compress(text))
    async with bed(replicas, ONLY_SMALL) as b:
        status, body = await b.complete()  # the client unpacks by the header
        assert (status, body["choices"]) == (200, [{"text": "kept"}])
        assert await b.metric("melange_gateway_tokens_total", kind="output") == 4
        replicas["small"][0].whole = (headers, b"\x1f\x8b broken")
        body = {"model": MODEL, "prompt": "x"}
        async with (
            aiohttp.ClientSession(auto_decompress=False, headers=b.client.headers) as plain,
            plain.post(f"{b.url}/v1/completions", json=body) as r,
        ):
            assert (r.status, r.headers["Content-Encoding"]) == (200, "gzip")
            assert await r.read() == b"\x1f\x8b broken"


def test_sigterm_ends_within_the_time_to_drain_and_a_second_signal_at_once(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(dump_plan(split_plan(left=1.0)), encoding="utf-8")
    for drain, signals, within_s in (("2", 1, 2.5), ("60", 2, 2.5)):
        with replica() as a:
            a.slow_s = 30.0  # type: ignore[attr-defined]
            arguments = (str(plan), "--backend", f"small={url(a)}", "--drain", drain)
            running = Running(*arguments, MELANGE_SKY_API_KEY=KEY)
            asking = subprocess.Popen(
                [
                    *("curl", "-s", "-o", os.devnull, "-H", f"Authorization: Bearer {KEY}"),
                    *("-d", json.dumps({"model": MODEL, "prompt": "x"})),
                    f"{running.url}/v1/completions",
                ]
            )
            while not a.seen:  # type: ignore[attr-defined]
                time.sleep(0.02)
            begun_s = time.monotonic()
            for _ in range(signals - 1):
                running.process.send_signal(signal.SIGINT)
                time.sleep(0.3)
            assert running.end() == 0
            assert time.monotonic() - begun_s < within_s
            asking.wait(10)
