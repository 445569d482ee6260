"""A real HAProxy under the faults that the gateway is tested with."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.gateway.bed import MODEL, Bed, run, split_plan, together
from tests.gateway.replica import Replica
from tests.gateway.test_faults import BAD_BODIES, ONLY_SMALL, pair
from tests.gateway.test_outliers import clients, fleet
from tests.haproxy.bed import needs_haproxy, proxy_bed

pytestmark = [pytest.mark.stack, needs_haproxy]


@pytest.mark.parametrize("mode", ["error", "busy", "deny", "drop", "noise"])
@run
async def test_a_failing_replica_costs_no_request(mode: str, tmp_path: Path) -> None:
    replicas = pair(mode)
    async with proxy_bed(tmp_path, replicas, ONLY_SMALL) as b:
        answers = await together([b.complete() for _ in range(30)])
        assert {status for status, _ in answers} == {200}
        streams = await together([b.stream() for _ in range(30)])
        assert {status for status, _ in streams} == {200}
        asked = len(replicas["small"][0].seen)
        assert 3 <= asked < 50, "once it stands out most requests are kept away"
        assert b.left_out == {"model-chat/small.1"}
        retried = [line for line in await b.log(60) if line["attempts"] > 1]
        assert {line["status"] for line in retried} == {200}
        assert len(retried) == asked


@pytest.mark.parametrize(("mode", "status"), [("error", 500), ("drop", 502), ("noise", 502)])
@run
async def test_the_log_counts_all_tries_of_a_request_that_none_served(
    mode: str, status: int, tmp_path: Path
) -> None:
    replicas = {
        "small": [Replica(f"bad{n}", mode=mode) for n in range(6)],
        "big": [Replica("b", mode=mode)],
    }
    async with proxy_bed(tmp_path, replicas, ONLY_SMALL) as b:
        answers = await together([b.complete() for _ in range(20)])
        assert {got for got, _ in answers} == {status}
        assert [(r["attempts"], r["status"]) for r in await b.log(20)] == [(4, status)] * 20
        assert len({replica for r in await b.log(20) if (replica := r["replica"]) != "none"}) > 1


@run
async def test_the_only_repetition_is_not_lost_to_a_connection_that_closes(tmp_path: Path) -> None:
    """Each failure of all tries closes the connection that it was repeated over; others repeat meanwhile."""
    bad = [Replica(f"bad{n}", mode="drop") for n in range(5)]
    good = [Replica(f"good{n}") for n in range(3)]
    for replica in good:
        replica.poison = "drop"
    async with proxy_bed(tmp_path, {"small": bad[2:] + good[1:], "big": bad[:2] + good[:1]}) as b:
        for _ in range(40):
            await together(
                [b.complete(prompt="poison") if n % 2 else b.complete() for n in range(20)]
            )
        logged = await b.log(800)
        assert [r for r in logged if r["status"] != 200 and r["attempts"] == 1] == []


@run
async def test_a_replica_that_refuses_connections_costs_no_request(tmp_path: Path) -> None:
    replicas = pair("ok")
    async with proxy_bed(tmp_path, replicas, ONLY_SMALL) as b:
        await replicas["small"][0].stop()
        answers = await together([b.complete() for _ in range(20)])
        assert {body.get("served_by") for _, body in answers} <= {"good", "big"}


@pytest.mark.stack
@run
async def test_all_of_an_option_down_spills_to_others_and_its_return_is_noticed(
    tmp_path: Path,
) -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas, ONLY_SMALL) as b:
        await replicas["small"][0].stop()
        assert {(await b.complete())[1]["served_by"] for _ in range(10)} == {"b"}
        await replicas["small"][0].start(replicas["small"][0].port)
        served: Counter[str] = Counter()
        for _ in range(80):
            served[(await b.complete())[1]["served_by"]] += 1
            await asyncio.sleep(0.1)
            if served["a"] > 5:
                break
        assert served["a"] > 5, served


@run
async def test_death_in_mid_stream_ends_it_and_is_not_repeated(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a", "die")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas, ONLY_SMALL) as b:
        body = {"model": MODEL, "prompt": "x", "max_tokens": 8, "stream": True}
        got = b""
        with pytest.raises(aiohttp.ClientPayloadError):
            async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
                assert r.status == 200
                async for chunk in r.content.iter_any():
                    got += chunk
        assert got.count(b'"text"') == 2
        assert replicas["big"][0].seen == [], "after the first byte nothing is sent twice"
        (line,) = await b.log()
        assert line["end"].startswith("SD")


@run
async def test_a_hang_of_everything_is_a_504(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas, first_byte_s=1.0) as b:
        for group in replicas.values():
            group[0].mode = "hang"
        status, text = await b.stream()
        assert (status, json.loads(text)["error"]["code"]) == (504, "timeout")
        assert [len(group[0].seen) for group in replicas.values()] == [1, 1]


@run
async def test_a_hanging_stream_goes_elsewhere(tmp_path: Path) -> None:
    replicas = pair("hang")
    async with proxy_bed(tmp_path, replicas, ONLY_SMALL, first_byte_s=1.0) as b:
        answers = await together([b.stream() for _ in range(6)])
        assert {status for status, _ in answers} == {200}


@pytest.mark.stack
@run
async def test_nothing_at_all_is_a_502_then_and_a_503_of_health(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas) as b:
        for group in replicas.values():
            await group[0].stop()
        status, body, _ = await b.post(json.dumps({"model": MODEL, "prompt": "x"}))
        assert (status, body["error"]["code"]) == (502, "replica_error")
        for _ in range(100):
            async with b.client.get(f"{b.url}/health") as r:
                if r.status == 503:
                    return
            await asyncio.sleep(0.1)
        raise AssertionError("never unhealthy")


@run
async def test_one_poisonous_request_gets_its_own_500_and_is_tried_a_few_times(
    tmp_path: Path,
) -> None:
    replicas = fleet(6)
    for replica in replicas["small"]:
        replica.mode = "error"
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0)) as b:
        status, body = await b.complete()
        assert (status, body) == (500, {"error": {}})
        assert sum(len(r.seen) for r in replicas["small"]) == 4


SLOW = ("drop", "busy", "garbage", "empty")


@pytest.mark.parametrize(
    "poison", ["error", *(pytest.param(mode, marks=pytest.mark.stack) for mode in SLOW)]
)
@run
async def test_poisonous_requests_take_nothing_from_the_good_ones(
    poison: str, tmp_path: Path
) -> None:
    replicas = fleet(2)
    for replica in replicas["small"]:
        replica.poison = poison
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0)) as b:
        stop = asyncio.Event()
        good = asyncio.create_task(clients(b, 20, stop, 0.02))
        if poison == "garbage":  # passes, as HTML that no client of an API reads
            bad = asyncio.create_task(pages(b, stop))
        else:
            bad = asyncio.create_task(clients(b, 10, stop, 0.02, user="poison"))
        await asyncio.sleep(1.5)
        stop.set()
        served, refused = await good, await bad
        assert set(served) == {200} and served[200] > 30
        assert poison in ("empty", "garbage") or 200 not in refused
        assert b.left_out == set(), "nobody is left out"


async def pages(b: Bed, stop: asyncio.Event) -> Counter[int]:
    got: Counter[int] = Counter()
    while not stop.is_set():
        got[(await b.stream(user="poison"))[0]] += 1
        await asyncio.sleep(0.02)
    return got


@run
async def test_one_failing_replica_of_four_is_out_at_once_and_costs_no_good_request(
    tmp_path: Path,
) -> None:
    replicas = fleet(4)
    for replica in replicas["small"]:
        replica.poison = "error"
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0)) as b:
        stop = asyncio.Event()
        good = asyncio.create_task(clients(b, 20, stop, 0.05))
        bad = asyncio.create_task(clients(b, 10, stop, 0.05, user="poison"))
        await asyncio.sleep(0.5)
        replicas["small"][1].mode = "error"
        await asyncio.sleep(1.5)
        asked = len(replicas["small"][1].seen)
        await asyncio.sleep(1.0)
        assert len(replicas["small"][1].seen) <= asked + 5
        assert b.left_out == {"model-chat/small.2"}
        stop.set()
        assert set(await good) == {200}
        await bad


@run
async def test_never_more_than_half_are_left_out(tmp_path: Path) -> None:
    replicas = fleet(4)
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0)) as b:
        for replica in replicas["small"][:3]:
            replica.mode = "error"
        answers = await together([b.complete() for _ in range(60)])
        served = Counter(status for status, _ in answers)
        assert served == {200: 60}
        assert len(b.left_out) <= 2


@run
async def test_unhealthy_everywhere_means_all_are_used(tmp_path: Path) -> None:
    replicas = fleet(2)
    for replica in replicas["small"]:
        replica.healthy = False  # /health says no, requests are served all the same
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0)) as b:
        while not all(b.told(f"small.{n} is DOWN") for n in (1, 2)):
            await asyncio.sleep(0.05)
        answers = [await b.complete() for _ in range(20)]
        assert {status for status, _ in answers} == {200}
        assert {body["served_by"] for _, body in answers} == {"r0", "r1"}


@run
async def test_bad_bodies_get_their_status_in_openais_form(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas) as b:
        for body, status, code in BAD_BODIES:
            got, answer, _ = await b.post(body)
            assert (got, answer["error"]["code"]) == (status, code), body[:40]
        assert replicas["small"][0].seen + replicas["big"][0].seen == []


@run
async def test_a_client_that_leaves_stops_the_replicas_work(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a", itl_s=0.05)], "big": [Replica("b", itl_s=0.05)]}
    every = [group[0] for group in replicas.values()]
    async with proxy_bed(tmp_path, replicas) as b:
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
async def test_a_replicas_refusal_of_the_request_passes_untouched(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a", "reject")], "big": [Replica("b", "reject")]}
    async with proxy_bed(tmp_path, replicas) as b:
        for stream in (False, True):
            body = {"model": MODEL, "prompt": "x", "max_tokens": 1, "stream": stream}
            async with b.client.post(f"{b.url}/v1/completions", json=body) as r:
                assert (r.status, r.content_type) == (422, "application/json")
                assert await r.read() == b'{"error" : {"message": "odd  \\u00e9"}}'
        assert sum(len(group[0].seen) for group in replicas.values()) == 2, "asked once each"


@run
async def test_a_replica_that_refuses_the_proxys_key_or_sends_elsewhere_says_so(
    tmp_path: Path,
) -> None:
    replicas = {"small": [Replica("a", "deny")], "big": [Replica("b", "deny")]}
    async with proxy_bed(tmp_path, replicas) as b:
        for mode in ("deny", "redirect"):
            for group in replicas.values():
                group[0].mode = mode
            status, body, headers = await b.post(json.dumps({"model": MODEL, "prompt": "x"}))
            assert (status, body["error"]["code"]) == (502, "replica_error")
            assert "Location" not in headers
