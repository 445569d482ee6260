"""What can go wrong: each fault has its status, nothing leaks, nothing that could be served is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import io
import json
import os
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.gateway.bed import FAST, KEY, MODEL, Bed, bed, run, split_plan, together
from tests.gateway.replica import Replica


def now() -> float:
    return asyncio.get_running_loop().time()


def pair(mode: str, **over: float) -> dict[str, list[Replica]]:
    """Two replicas of one option, the first with a fault; and a healthy one of the other."""
    bad, good = Replica("bad", mode, **over), Replica("good", **over)  # type: ignore[arg-type]
    return {"small": [bad, good], "big": [Replica("big", **over)]}  # type: ignore[arg-type]


ONLY_SMALL = split_plan(left=1.0)


@pytest.mark.parametrize("mode", ["error", "busy", "deny", "drop", "redirect"])
@run
async def test_a_failing_replica_costs_no_request(mode: str) -> None:
    replicas = pair(mode)
    async with bed(replicas, ONLY_SMALL) as b:
        answers = await together([b.complete() for _ in range(30)])
        assert {status for status, _ in answers} == {200}
        streams = await together([b.stream() for _ in range(30)])
        assert {status for status, _ in streams} == {200}
        asked = len(replicas["small"][0].seen)
        assert 3 <= asked < 50, "once it stands out most requests are kept away"
        assert await b.metric("melange_gateway_attempt_failures_total", option="small") >= 3


@run
async def test_an_empty_stream_is_tried_elsewhere() -> None:
    async with bed(pair("empty"), ONLY_SMALL) as b:
        for _ in range(6):
            status, text = await b.stream()
            assert (status, text.endswith("data: [DONE]\n\n")) == (200, True)


@run
async def test_a_replica_that_refuses_connections_is_left_at_once() -> None:
    replicas = pair("ok")
    async with bed(replicas, ONLY_SMALL) as b:
        await replicas["small"][0].stop()
        answers = await together([b.complete() for _ in range(20)])
        assert {body.get("served_by") for _, body in answers} == {"good"}
        assert await b.metric("melange_gateway_healthy_backends", option="small") == 1


@run
async def test_a_replica_that_comes_back_is_used_again() -> None:
    replicas = pair("ok")
    bad = replicas["small"][0]
    async with bed(replicas, ONLY_SMALL) as b:
        await bad.stop()
        await b.settled(lambda: not b.gateway.fleet.backends[0].healthy(0) or True)
        assert (await b.complete())[0] == 200
        await bad.start(bad.port)
        await asyncio.sleep(0.5)
        served = {(await b.complete())[1]["served_by"] for _ in range(8)}
        assert served == {"bad", "good"}


@run
async def test_a_hanging_replica_is_found_by_probes_and_its_requests_go_elsewhere() -> None:
    replicas = pair("ok")
    settings = dataclasses.replace(FAST, first_byte_s=20.0, answer_s=20.0, probe_s=0.2)
    async with bed(replicas, ONLY_SMALL, settings) as b:
        replicas["small"][0].mode = "hang"
        answers = await together([b.complete() for _ in range(6)])
        assert {status for status, _ in answers} == {200}
        assert {body["served_by"] for _, body in answers} == {"good"}


@run
async def test_a_hang_of_everything_is_a_504() -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    settings = dataclasses.replace(FAST, first_byte_s=0.3, probe_every_s=30.0)
    async with bed(replicas, ONLY_SMALL, settings) as b:
        for group in replicas.values():
            group[0].mode = "hang"
        status, text = await b.stream()
        assert (status, json.loads(text)["error"]["code"]) == (504, "timeout")


@run
async def test_death_in_mid_stream_is_told_and_not_repeated() -> None:
    replicas = {"small": [Replica("a", "die")], "big": [Replica("b")]}
    async with bed(replicas, ONLY_SMALL) as b:
        body = {"model": MODEL, "prompt": "x", "max_tokens": 8, "stream": True}
        got = b""
        with pytest.raises(aiohttp.ClientPayloadError):
            async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
                assert r.status == 200
                async for chunk in r.content.iter_any():
                    got += chunk
        assert got.count(b'"text"') == 2
        assert b'"code": "stream_broken"' in got
        assert b"[DONE]" not in got
        assert len(replicas["big"][0].seen) == 0, "after the first byte nothing is sent twice"
        assert await b.metric("melange_gateway_answers_total", status="broken") == 1


@run
async def test_no_replica_at_all_is_a_503_with_retry_after() -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with bed(replicas) as b:
        for group in replicas.values():
            await group[0].stop()
        await b.settled(lambda: not any(x.healthy(now()) for x in b.gateway.fleet.backends))
        body = {"model": MODEL, "prompt": "x"}
        async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
            assert (r.status, "Retry-After" in r.headers) == (503, True)
        async with b.client.get(f"{b.url}/health") as r:
            assert r.status == 503


@run
async def test_one_poisonous_request_gets_its_own_500() -> None:
    replicas = {"small": [Replica("a", "error")], "big": [Replica("b", "error")]}
    async with bed(replicas) as b:
        status, body = await b.complete()
        assert (status, body["error"]["code"]) == (500, "replica_error")


BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b"{not json", 400, "invalid_json"),
    (b"", 400, "invalid_json"),
    (b"[1, 2]", 400, "invalid_json"),
    (b'{"model": NaN}', 400, "invalid_json"),
    (b"\xff\xfe{\x00}\x00", 400, "invalid_json"),
    (b"[" * 100_000, 400, "invalid_json"),
    (b'{"model": "nobody/knows", "prompt": "x"}', 404, "model_not_found"),
    (b'{"model": ["a"], "prompt": "x"}', 400, "invalid_value"),
    (b'{"prompt": "x", "max_tokens": -1}', 400, "invalid_value"),
    (b'{"prompt": "x", "max_tokens": "many"}', 400, "invalid_value"),
    (b'{"prompt": "x", "max_tokens": 1e9999}', 400, "invalid_value"),
    (b'{"prompt": "x", "n": true}', 400, "invalid_value"),
    (b'{"prompt": "x", "stream_options": 3, "stream": true}', 400, "invalid_value"),
]


@run
async def test_bad_bodies_get_their_status_in_openais_form() -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with bed(replicas) as b:
        for body, status, code in BAD_BODIES:
            async with b.client.post(f"{b.url}/v1/completions", data=body) as r:
                answer = await r.json()
                assert (r.status, answer["error"]["code"]) == (status, code), body[:40]
                assert len(await r.read()) < 600
        assert replicas["small"][0].seen + replicas["big"][0].seen == []


@run
async def test_keys_paths_methods_and_sizes() -> None:
    async with bed({"small": [Replica("a")], "big": [Replica("b")]}) as b:
        body = {"model": MODEL, "prompt": "x"}
        for given in ("", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", KEY, "Bearer \xe9"):
            headers = {"Authorization": given}
            async with b.client.post(f"{b.url}/v1/completions", json=body, headers=headers) as r:
                assert (r.status, "WWW-Authenticate" in r.headers) == (401, True)
            async with b.client.get(f"{b.url}/metrics", headers=headers) as r:
                assert r.status == 401
        for path, status in (
            ("/", 404),
            ("/v1/images/generations", 404),
            ("/v1/embeddings", 405),
            ("/v1/completions/", 404),
            ("/../v1/models", 200),
            ("/v1/completions", 405),
            ("http://example.com/", 404),
            ("/%2e%2e/etc/passwd", 404),
        ):
            async with b.client.get(f"{b.url}{path}" if path[0] == "/" else b.url, proxy=None) as r:
                assert r.status in (status, 404), path
        big = b'{"prompt": "' + b"x" * 10_000_000 + b'"}'
        async with b.client.post(f"{b.url}/v1/completions", data=io.BytesIO(big)) as r:
            assert r.status == 413
        async with b.client.post(f"{b.url}/v1/completions", data=pieces(big)) as r:
            assert r.status == 413
        zipped = {"Content-Encoding": "gzip"}
        async with b.client.post(f"{b.url}/v1/completions", data=b"x", headers=zipped) as r:
            assert r.status == 415


async def pieces(body: bytes):  # type: ignore[no-untyped-def]
    """A body without a length told beforehand."""
    for at in range(0, len(body), 100_000):
        yield body[at : at + 100_000]


@run
async def test_slow_loris_is_let_go_and_holds_nobody_up() -> None:
    async with bed({"small": [Replica("a")], "big": [Replica("b")]}) as b:
        host, port = b.url.removeprefix("http://").split(":")
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
        for at, (_, writer) in enumerate(slow):
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
            body = f"Authorization: Bearer {KEY}\r\nContent-Length: 100\r\n\r\n{{".encode()
            writer.write(head + (body if at % 2 else b"X-A: b\r\n"))
        assert (await b.complete())[0] == 200
        answers = [await asyncio.wait_for(reader.read(), 5) for reader, _ in slow]
        for _, writer in slow:
            writer.close()
        assert {a.split(b"\r\n")[0] for a in answers} == {b"", b"HTTP/1.1 408 Request Timeout"}


@run
async def test_a_client_that_leaves_stops_the_replicas_work() -> None:
    replicas = {"small": [Replica("a", itl_s=0.05)], "big": [Replica("b", itl_s=0.05)]}
    every = [group[0] for group in replicas.values()]
    async with bed(replicas) as b:
        for stream in (True, False):
            body = {"model": MODEL, "prompt": "x", "max_tokens": 1000, "stream": stream}
            task = asyncio.create_task(b.client.post(f"{b.url}/v1/completions", json=body))
            await b.settled(lambda: sum(r.running for r in every) == 1)
            if stream:
                (await task).close()
            else:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await b.settled(lambda: sum(r.running for r in every) == 0, within_s=2.0)
        assert sum(r.ended["cut"] for r in every) == 2


@run
async def test_a_client_that_stops_reading_is_let_go() -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    settings = dataclasses.replace(FAST, stall_s=0.3)
    for group in replicas.values():
        group[0].pad = "x" * 20_000
    async with bed(replicas, settings=settings) as b:
        host, port = b.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 4_000, "stream": True})
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        writer.transport.pause_reading()
        await b.settled(lambda: any(p.blocked_since_s for p in b.gateway.proxy.under_way))
        await asyncio.sleep(0.4)
        b.gateway.proxy.end_stalled(asyncio.get_running_loop().time())
        await b.settled(lambda: not b.gateway.proxy.under_way)
        writer.close()
        every = [group[0] for group in replicas.values()]
        await b.settled(lambda: sum(r.running for r in every) == 0)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")  # noqa: PTH112
@run
async def test_a_thousand_abrupt_disconnects_leave_nothing() -> None:
    replicas = {"small": [Replica("a", itl_s=0.02)], "big": [Replica("b", ttft_s=0.02)]}
    async with bed(replicas) as b:
        await together([b.complete() for _ in range(20)])
        host, port = b.url.removeprefix("http://").split(":")
        body = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 50, "stream": True})
        text = (
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
        files, tasks = open_files(), len(asyncio.all_tasks())

        async def leave(at: int) -> None:
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(text[: len(text) // 2] if at % 5 == 0 else text)
            await asyncio.sleep(0.001 * (at % 40))
            writer.transport.abort()

        for start in range(0, 1000, 50):
            await together([leave(start + at) for at in range(50)])
        every = [group[0] for group in replicas.values()]
        await b.settled(lambda: sum(r.running for r in every) == 0)
        await b.settled(lambda: not b.gateway.proxy.under_way)
        await asyncio.sleep(0.2)
        assert (await b.complete())[0] == 200
        gc.collect()
        assert len(asyncio.all_tasks()) <= tasks + 5
        assert open_files() <= files + 10
        answers = Counter(status for status, _ in await together([b.complete() for _ in range(20)]))
        assert answers == {200: 20}


@run
async def test_connections_beyond_the_limit_wait_and_idle_ones_make_room() -> None:
    settings = dataclasses.replace(FAST, connections=4, header_s=9.0)
    async with bed({"small": [Replica("a")], "big": [Replica("b")]}, settings=settings) as b:
        host, port = b.url.removeprefix("http://").split(":")
        held = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        await asyncio.sleep(0.1)
        assert b.gateway._server.open_connections == b.gateway.files.connections == 8
        assert (await asyncio.wait_for(b.complete(), 8.0))[0] == 200
        for _, writer in held:
            writer.close()


async def ends_well(b: Bed) -> bool:
    try:
        _, text = await b.stream(max_tokens=8)
    except aiohttp.ClientPayloadError:
        return False
    return text.endswith("data: [DONE]\n\n")


@run
async def test_a_replica_that_dies_in_every_stream_is_left_alone() -> None:
    replicas = pair("die")
    settings = dataclasses.replace(FAST, ejection_s=20.0, ejection_most_s=20.0)
    async with bed(replicas, ONLY_SMALL, settings) as b:
        ended = Counter([await ends_well(b) for _ in range(30)])
        assert ended[False] == settings.outlier_volume
        assert len(replicas["small"][0].seen) == settings.outlier_volume


@run
async def test_an_error_told_in_mid_stream_passes_untouched_and_teaches_no_length() -> None:
    replicas = {"small": [Replica("a", "tell")], "big": [Replica("b", "tell")]}
    async with bed(replicas) as b:
        status, text = await b.stream(max_tokens=8)
        assert status == 200
        assert 'data: {"error": {"message": "out of memory", "code": 500}}\n\n' in text
        assert text.endswith("data: [DONE]\n\n")
        assert await b.metric("melange_gateway_tokens_total") == 0
        assert await b.metric("melange_gateway_requests_total") == 0


@run
async def test_a_replicas_refusal_of_the_request_passes_untouched() -> None:
    replicas = {"small": [Replica("a", "reject")], "big": [Replica("b", "reject")]}
    async with bed(replicas) as b:
        for stream in (False, True):
            body = {"model": MODEL, "prompt": "x", "max_tokens": 1, "stream": stream}
            async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
                assert (r.status, r.content_type) == (422, "application/json")
                assert await r.read() == b'{"error" : {"message": "odd  \\u00e9"}}'
        assert sum(len(group[0].seen) for group in replicas.values()) == 2, "asked once each"


@pytest.mark.parametrize(("mode", "status"), [("busy", 503), ("limit", 429)])
@run
async def test_a_refusal_of_all_replicas_keeps_its_status_and_when_to_come_back(
    mode: str, status: int
) -> None:
    replicas = {"small": [Replica("a", mode)], "big": [Replica("b", mode)]}
    async with bed(replicas) as b:
        body = {"model": MODEL, "prompt": "x", "max_tokens": 1}
        async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
            assert (r.status, r.headers["Retry-After"]) == (status, "17")
            assert (await r.json())["error"]["code"] == "busy"
        assert [len(group[0].seen) for group in replicas.values()] == [1, 1], "each was asked"


@run
async def test_a_place_goes_to_the_first_that_can_use_it() -> None:
    # One request fills a replica. The place that comes free at `small` is of no use to the long
    # requests, which came first; nothing else comes free for a while.
    settings = dataclasses.replace(FAST, queue_wait_s=20.0, answer_s=20.0, probe_every_s=30.0)
    replicas = {"small": [Replica("small", ttft_s=0.3)], "big": [Replica("big", ttft_s=3.0)]}
    async with bed(replicas, split_plan(left=1.0, rate=0.04), settings) as b:
        service = next(iter(b.gateway.fleet.services.values()))
        long_ones = [asyncio.create_task(b.complete(words=600)) for _ in range(3)]
        await b.settled(lambda: len(service.waiting) == 2)
        short = [asyncio.create_task(b.complete()) for _ in range(2)]
        await b.settled(lambda: len(service.waiting) == 3)
        answers = await together(short)  # type: ignore[arg-type]
        assert [body.get("served_by") for _, body in answers] == ["small", "small"]
        assert not any(task.done() for task in long_ones)
        assert {status for status, _ in await together(long_ones)} == {200}  # type: ignore[arg-type]
        assert service.waiting == []


@run
async def test_who_leaves_the_queue_gives_the_place_on() -> None:
    settings = dataclasses.replace(FAST, queue_length=50, queue_wait_s=20.0, answer_s=20.0)
    replicas = {"small": [Replica("small")], "big": [Replica("big", ttft_s=0.5)]}
    async with bed(replicas, split_plan(rate=0.5), settings) as b:
        service = next(iter(b.gateway.fleet.services.values()))
        calls = [asyncio.create_task(b.complete(words=600)) for _ in range(30)]
        await b.settled(lambda: len(service.waiting) >= 12)
        for call in calls[::3]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        served = [a for a in answers if not isinstance(a, BaseException)]
        assert len(served) == 20 and {status for status, _ in served} == {200}
        await b.settled(lambda: not service.waiting and not b.gateway.front.accepted)


@run
async def test_a_drain_waits_for_a_body_that_is_still_coming() -> None:
    async with bed({"small": [Replica("a")], "big": [Replica("b")]}) as b:
        host, port = b.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 1}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        await b.settled(lambda: b.gateway.front.accepted == 1)
        b.gateway.stop()
        waiting = asyncio.create_task(b.gateway.wait())
        await asyncio.sleep(0.1)
        writer.write(body[5:])
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        await waiting


@run
async def test_a_thousand_requests_while_plans_and_backends_change_all_get_an_answer() -> None:
    replicas = {"small": [Replica("a", itl_s=0.002)], "big": [Replica("b", itl_s=0.002)]}
    extra = await Replica("c", itl_s=0.002).start()
    holder = {"plan": split_plan()}
    async with bed(replicas, holder=holder) as b:
        statuses: Counter[int] = Counter()
        left = 1000

        async def client(stream: bool) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                status, text = await (b.stream() if stream else b.complete())
                whole = not stream or str(text).endswith("data: [DONE]\n\n")
                statuses[status if whole else -1] += 1

        clients = [asyncio.create_task(client(n % 2 == 0)) for n in range(16)]
        at = 0
        while not all(task.done() for task in clients):
            holder["plan"] = split_plan(left=(0.0, 0.3, 1.0)[at % 3], instances=1 + at % 2)
            b.backends["big"] = [[replicas["big"][0].url, extra.url], [extra.url]][at % 2]
            b.gateway.reload()
            at += 1
            await asyncio.sleep(0.03)
        await together(clients)  # type: ignore[arg-type]
        assert statuses == {200: 1000}
        assert at > 3
    await extra.stop()
