"""What clients get from the gateway when all is well, and how it routes, learns, reloads and drains."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest

from melange_sky.planner.observed_file import ObservedFile
from tests.factories import make_plan
from tests.gateway.bed import FAST, MODEL, REPLICA_KEY, bed, run, split_plan, together
from tests.gateway.replica import Replica

LONG = 600  # words; the replica reports 40 tokens, the gateway estimates 750 and more


def two(**over: float) -> dict[str, list[Replica]]:
    return {"small": [Replica("small", **over)], "big": [Replica("big", **over)]}  # type: ignore[arg-type]


@run
async def test_requests_reach_the_planned_options_in_the_planned_shares() -> None:
    replicas = two()
    async with bed(replicas, split_plan(left=0.75)) as b:
        answers = [await b.complete() for _ in range(200)]
        assert {status for status, _ in answers} == {200}
        served = Counter(body["served_by"] for _, body in answers)
        assert abs(served["small"] - 150) <= 2
        long_ones = [await b.complete(words=LONG) for _ in range(20)]
        assert {body["served_by"] for _, body in long_ones} == {"big"}
        assert await b.metric("melange_gateway_decisions_total", reason="planned") == 220
        assert await b.metric("melange_gateway_requests_total", option="small") == served["small"]


@run
async def test_a_stream_passes_unchanged_and_its_tokens_are_counted() -> None:
    replicas = two()
    async with bed(replicas) as b:
        status, text = await b.stream(max_tokens=4)
        assert status == 200
        events = text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        assert [json.loads(e[6:])["choices"][0]["text"] for e in events[:-2]] == [
            "t0 ",
            "t1 ",
            "t2 ",
            "t3 ",
        ]
        assert "usage" not in text, "counts were asked for by the gateway, not by the client"
        seen = (replicas["small"][0].seen + replicas["big"][0].seen)[0]
        assert seen["stream_options"] == {"include_usage": True}
        assert seen["messages"] == [{"role": "user", "content": "word " * 10}]
        assert await b.metric("melange_gateway_tokens_total", kind="output") == 4
        _, text = await b.stream(max_tokens=4, stream_options={"include_usage": True})
        assert '"completion_tokens": 4' in text
        _, text = await b.stream(max_tokens=4, stream_options={"include_usage": False})
        assert '"usage"' not in text


@run
async def test_a_stream_is_not_held_back() -> None:
    async with bed(two(itl_s=0.15)) as b:
        body = {"model": MODEL, "prompt": "x", "max_tokens": 4, "stream": True}
        loop = asyncio.get_running_loop()
        times = []
        async with b.client.post(f"{b.url}/v1/completions", json=body) as response:
            async for chunk in response.content.iter_any():
                times.append((loop.time(), chunk))  # noqa: PERF401
        texts = [c for _, c in times if b'"text"' in c]
        assert len(texts) == 4, "each event comes by itself"
        assert times[-1][0] - times[0][0] > 0.3


@run
async def test_only_what_is_needed_goes_to_the_replica_and_its_own_key() -> None:
    replicas = two()
    async with bed(replicas) as b:
        headers = {"X-Request-Id": "abc-1", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4"}
        body = {"model": MODEL, "prompt": "x", "max_tokens": 1}
        async with b.client.post(f"{b.url}/v1/completions", json=body, headers=headers) as r:
            assert r.headers["X-Request-Id"] == "abc-1"
        got = (replicas["small"][0].headers + replicas["big"][0].headers)[0]
        assert got["Authorization"] == f"Bearer {REPLICA_KEY}"
        assert got["X-Request-ID"] == "abc-1"
        assert not {"Cookie", "X-Forwarded-For"} & set(got)


@run
async def test_models_health_and_metrics() -> None:
    async with bed(two()) as b:
        async with b.client.get(f"{b.url}/v1/models") as r:
            assert [m["id"] for m in (await r.json())["data"]] == [MODEL]
        async with b.client.get(f"{b.url}/health", headers={"Authorization": ""}) as r:
            assert (r.status, (await r.json())["status"]) == (200, "ok")
        assert await b.metric("melange_gateway_healthy_backends") == 2
        assert await b.metric("melange_gateway_planned_rps", option="big") == pytest.approx(2.0)


@run
async def test_output_lengths_seen_correct_the_prediction_and_prompts_the_ratio() -> None:
    async with bed(two()) as b:
        service = next(iter(b.gateway.fleet.services.values()))
        before = service.counter.bytes_per_token
        await together([b.complete(words=32, max_tokens=5) for _ in range(40)])
        # 160 bytes that the replica calls 40 tokens: the ratio stays near 4; 32 words say otherwise.
        assert service.counter.bytes_per_token == pytest.approx(before, abs=0.1)
        await together([b.complete(words=16, max_tokens=5) for _ in range(40)])
        assert service.counter.bytes_per_token < before - 0.5


@run
async def test_a_burst_waits_in_the_queue_and_the_rest_is_told_when_to_come_back() -> None:
    settings = dataclasses.replace(FAST, queue_length=3, queue_wait_s=2.0)
    # 0.5 req/s × 4.9 s at the SLO's edge: 2.5 requests at capacity, full at four times that.
    async with bed(two(ttft_s=0.3), split_plan(rate=0.5), settings) as b:
        answers = await together([b.complete(words=LONG, max_tokens=2) for _ in range(20)])
        statuses = Counter(status for status, _ in answers)
        assert set(statuses) == {200, 429}
        assert statuses[200] >= 7
        body = next(body for status, body in answers if status == 429)
        assert body["error"]["code"] == "overloaded"
        assert (await b.complete(words=LONG))[0] == 200
        service = next(iter(b.gateway.fleet.services.values()))
        assert service.waiting == []


@run
async def test_429_says_retry_after() -> None:
    settings = dataclasses.replace(FAST, queue_length=0)
    async with bed(two(ttft_s=0.3), split_plan(rate=0.5), settings) as b:
        calls = [asyncio.create_task(b.complete(words=LONG)) for _ in range(12)]
        await asyncio.sleep(0.15)
        body = {"model": MODEL, "prompt": "word " * LONG, "max_tokens": 1}
        async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
            assert r.status == 429
            assert 1 <= int(r.headers["Retry-After"]) <= 60
        await together(calls)  # type: ignore[arg-type]


@run
async def test_a_new_plan_moves_the_shares_and_no_request_is_lost() -> None:
    holder = {"plan": split_plan(left=1.0)}
    replicas = two(ttft_s=0.02)
    extra = await Replica("big-2").start()
    async with bed(replicas, holder=holder) as b:
        done: Counter[str] = Counter()
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                status, body = await b.complete()
                assert status == 200
                done[body["served_by"]] += 1

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await b.settled(lambda: done["small"] > 50)
        assert done["big"] == 0
        for left in (0.0, 1.0, 0.5, 0.0):
            holder["plan"] = split_plan(left=left)
            b.gateway.reload()
            await asyncio.sleep(0.05)
        b.backends["big"] = [replicas["big"][0].url, extra.url]
        await b.settled(lambda: done["big-2"] > 20)
        b.backends["big"] = [extra.url]
        await asyncio.sleep(0.4)
        gone = done["big"]
        small = done["small"]
        await asyncio.sleep(0.2)
        assert (done["big"], done["small"]) == (gone, small), "out of the plan, no new requests"
        stop.set()
        await together(clients)  # type: ignore[arg-type]
        assert await b.metric("melange_gateway_reloads_total", result="done") >= 3
    await extra.stop()


@run
async def test_a_bad_plan_on_reload_leaves_the_old_one() -> None:
    holder = {"plan": split_plan()}
    async with bed(two(), holder=holder) as b:
        b.backends["nonsense"] = ["http://127.0.0.1:1"]
        await asyncio.sleep(0.3)
        assert (await b.complete())[0] == 200
        assert await b.metric("melange_gateway_reloads_total", result="refused") >= 1
        del b.backends["nonsense"]


@run
async def test_a_stream_in_flight_survives_its_backend_leaving_the_plan() -> None:
    replicas = two(itl_s=0.05)
    async with bed(replicas, split_plan(left=1.0)) as b:
        stream = asyncio.create_task(b.stream(max_tokens=12))
        await b.settled(lambda: replicas["small"][0].running == 1)
        del b.backends["small"]
        b.gateway.reload()
        await asyncio.sleep(0.2)
        assert (await b.complete())[1]["served_by"] == "big"
        status, text = await stream
        assert status == 200
        assert text.endswith("data: [DONE]\n\n")


@run
async def test_draining_finishes_what_is_in_flight_and_refuses_the_rest() -> None:
    replicas = two(itl_s=0.05)
    async with bed(replicas) as b:
        stream = asyncio.create_task(b.stream(max_tokens=10))
        await b.settled(lambda: sum(r.running for g in replicas.values() for r in g) == 1)
        b.gateway.stop()
        waiting = asyncio.create_task(b.gateway.wait())
        await asyncio.sleep(0.05)
        status, body = await b.complete()
        assert (status, body["error"]["code"]) == (503, "draining")
        async with b.client.get(f"{b.url}/health") as r:
            assert (r.status, (await r.json())["status"]) == (503, "draining")
        assert (await stream)[1].endswith("data: [DONE]\n\n")
        await waiting


@run
async def test_several_models_under_one_gateway() -> None:
    (one,) = split_plan().models
    other = dataclasses.replace(one, name="other", model="other/model")
    both = make_plan(name="both", models=(one, other), lists_models=True)
    replicas = {
        f"{plan}/{option}": [Replica(f"{plan}-{option}")]
        for plan in ("chat", "other")
        for option in ("small", "big")
    }
    async with bed(replicas, holder={"plan": both}) as b:
        for model, plan in ((MODEL, "chat"), ("other/model", "other")):
            served = {(await b.complete(model=model))[1]["served_by"] for _ in range(8)}
            assert served == {f"{plan}-small", f"{plan}-big"}
        status, body = await b.complete(model=None)
        assert (status, body["error"]["code"]) == (404, "model_not_found")


@run
async def test_one_url_for_several_replicas_gets_their_share() -> None:
    replicas = {"small": [Replica("one")], "big": [Replica("big")]}
    plan = split_plan(left=1.0, rate=0.5, instances=4)
    async with bed(replicas, plan, dataclasses.replace(FAST, queue_length=0)) as b:
        b.backends["small"] = [f"{replicas['small'][0].url}*4"]
        b.gateway.reload()
        await asyncio.sleep(0.3)
        assert await b.metric("melange_gateway_healthy_backends", option="small") == 4
        replicas["small"][0].ttft_s = 0.3
        answers = await together([b.complete() for _ in range(12)])
        assert Counter(body["served_by"] for _, body in answers if "served_by" in body)["one"] >= 4


@run
async def test_what_was_observed_is_a_spec_and_holds_no_content(tmp_path: Path) -> None:
    file = tmp_path / "observed.yaml"
    settings = dataclasses.replace(FAST, observe_every_s=0.1)
    async with bed(two(), settings=settings, observed=ObservedFile(file)) as b:
        for _ in range(6):
            await b.complete(max_tokens=30)
        await b.settled(file.exists)
    text = file.read_text()
    assert "requests: 6" in text
    assert "word" not in text
    assert {p.name for p in tmp_path.iterdir()} == {"observed.yaml"}
