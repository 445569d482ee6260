"""The plan's shares through a real HAProxy: by size, by load, by what is there; and nothing lost at a reload."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from melange_sky.plans import Allocation, Plan
from melange_sky.routing import Router
from tests.factories import make_capacity, make_engine, make_option, make_plan, make_workload
from tests.gateway.bed import KEY, MODEL, REPLICA_KEY, raw, run, split_plan, together
from tests.gateway.replica import Replica
from tests.haproxy.bed import needs_haproxy, proxy_bed

pytestmark = [pytest.mark.stack, needs_haproxy]

CHI2_999 = {1: 10.83, 2: 13.82, 3: 16.27}
"""The 99.9 % quantile of chi square by degrees of freedom."""


def three_options() -> Plan:
    """Three options over 3 × 2 buckets with shares of their own in each."""
    names = ("l4", "a10g", "h100")
    can = ([[9.0, 9.0], [9.0, 9.0], [None, None]], [[9.0] * 2] * 3, [[9.0] * 2] * 3)
    shares = (
        ((0.6, 0.2), (0.1, 0.05), (0.0, 0.0)),
        ((0.3, 0.5), (0.45, 0.0), (0.35, 0.1)),
        ((0.1, 0.3), (0.45, 0.95), (0.65, 0.9)),
    )
    candidates = [
        make_capacity(rates, make_option(name)) for name, rates in zip(names, can, strict=True)
    ]
    return make_plan(
        workload=make_workload([[4.0, 2.0], [1.0, 3.0], [0.5, 0.5]]),
        candidates=tuple(candidates),
        allocations=tuple(
            Allocation(candidate=c, instances=1, load_fraction=0.1, rate_rps=1.0, shares=each)
            for c, each in zip(candidates, shares, strict=True)
        ),
    )


@run
async def test_every_class_gets_the_plans_shares(tmp_path: Path) -> None:
    plan = three_options()
    router = Router(plan.models[0], Random(1))
    replicas = {name: [Replica(name)] for name in router.options}
    async with proxy_bed(tmp_path, replicas, plan, force_close=False) as b:
        for words, most in ((50, 30), (50, 90), (120, 30), (120, 90), (220, 30), (220, None)):
            over = {} if most is None else {"max_completion_tokens": most}
            want = router.expected_shares(router.class_of(5 * words // 4 + 4, most))
            lines = len(b.requests)
            calls = [b.stream(words=words, **({"max_tokens": None} | over)) for _ in range(300)]
            for start in range(0, 300, 20):
                await together(calls[start : start + 20])
            served = Counter(line["option"] for line in (await b.log(lines + 300))[lines:])
            chi2 = sum(
                (served[name] - 300 * share) ** 2 / (300 * share)
                for name, share in want.items()
                if share > 0
            )
            free = sum(share > 0 for share in want.values()) - 1
            assert set(served) <= {name for name, share in want.items() if share > 0}
            assert chi2 < CHI2_999[free], (words, most, served, want)
        assert [line for line in b.requests if line["reason"] != "planned"] == []


@run
async def test_replicas_of_an_option_share_evenly_and_an_endpoint_counts_for_its_replicas(
    tmp_path: Path,
) -> None:
    replicas = {"small": [Replica(f"r{n}", ttft_s=2.0) for n in range(4)]}  # all are there at once
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0)) as b:
        await together([b.complete() for _ in range(100)])
        assert [len(r.seen) for r in replicas["small"]] == [25] * 4
    behind = {"small": [Replica("one", ttft_s=0.3)], "big": [Replica("b", ttft_s=0.3)]}
    plan = split_plan(left=1.0, rate=0.3)  # 0.3 req/s of 3 s each: full with about one
    async with proxy_bed(tmp_path / "2", behind, plan, copies="*8") as b:
        await together([b.complete() for _ in range(8)])
        assert len(behind["small"][0].seen) > 5


@run
async def test_a_burst_spills_to_the_option_that_has_room(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a", ttft_s=0.5)], "big": [Replica("b", ttft_s=0.5)]}
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0, rate=1.0)) as b:
        answers = await together([b.complete() for _ in range(20)])
        assert {status for status, _ in answers} == {200}
        served = Counter(body["served_by"] for _, body in answers)
        assert served["a"] > 2 and served["b"] > 2, served
        reasons = Counter(line["reason"] for line in await b.log(20))
        assert reasons["spilled"] > 2, reasons


@pytest.mark.stack
@run
async def test_full_means_wait_then_say_when_to_come_back(tmp_path: Path) -> None:
    # Each replica serves one request at a time, and four may wait.
    replicas = {"small": [Replica("a", ttft_s=0.6)], "big": [Replica("b", ttft_s=0.6)]}
    plan = split_plan(left=0.5, rate=0.04)
    async with proxy_bed(tmp_path, replicas, plan, queue_length=4, queue_wait_s=30.0) as b:
        answers = await together([b.complete() for _ in range(20)])
        got = Counter(status for status, _ in answers)
        assert set(got) == {200, 429} and got[200] >= 6, got
        refused = [body for status, body in answers if status == 429]
        assert {body["error"]["code"] for body in refused} == {"overloaded"}
        served = Counter(body["served_by"] for status, body in answers if status == 200)
        assert abs(served["a"] - served["b"]) <= 1, served  # who waits goes where fewer do
        assert max(r.running for group in replicas.values() for r in group) == 0
        assert (await b.complete())[0] == 200


@pytest.mark.stack
@run
async def test_who_waits_longest_is_told_so(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a", ttft_s=3.0)], "big": [Replica("b", ttft_s=3.0)]}
    plan = split_plan(left=0.5, rate=0.01)
    async with proxy_bed(tmp_path, replicas, plan, queue_length=4, queue_wait_s=1.0) as b:
        answers = await together([b.complete() for _ in range(4)])
        assert Counter(status for status, _ in answers) == {200: 2, 503: 2}
        late = [body["error"] for status, body in answers if status == 503]
        assert {error["code"] for error in late} == {"overloaded"}


@run
async def test_one_of_several_proxies_is_full_at_its_part(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a", ttft_s=0.5)], "big": [Replica("b", ttft_s=0.5)]}
    plan = split_plan(left=1.0, rate=4.0)
    async with proxy_bed(tmp_path, replicas, plan, gateways=4) as b:
        answers = await together([b.complete() for _ in range(20)])
        served = Counter(body["served_by"] for _, body in answers)
        assert served["a"] > 2 and served["b"] > 2, served


@run
async def test_keys_are_asked_for_and_stay_where_they_belong(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas) as b:
        body = json.dumps({"model": MODEL, "prompt": "x", "max_tokens": 1})
        for given in ("", "Bearer wrong", f"Basic {KEY}", f"Bearer {KEY}x", KEY):
            status, answer, headers = await b.post(body, Authorization=given)
            assert (status, answer["error"]["code"]) == (401, "invalid_key")
            assert headers["WWW-Authenticate"] == "Bearer"
            for path in ("/metrics", "/v1/models"):
                async with b.client.get(f"{b.url}{path}", headers={"Authorization": given}) as r:
                    assert r.status == 401
        sent = {"x-api-key": KEY, "Cookie": "a=b", "X-Melange-Pass": "x", "X-Request-Id": "mine-1"}
        for headers in (sent, sent | {"Authorization": f"Bearer {KEY}"}):
            status, _, answered = await b.post(body, **headers)
            assert (status, answered["X-Request-Id"]) == (200, "mine-1")
            assert not any(name.lower().startswith("x-melange") for name in answered)
        seen = [h for group in replicas.values() for h in group[0].headers]
        for headers in seen:
            assert headers["Authorization"] == f"Bearer {REPLICA_KEY}"
            assert KEY not in str(headers) and "Cookie" not in headers
        assert not any(KEY in line or REPLICA_KEY in line for line in b.lines)
        written = "".join(path.read_text() for path in b.folder.iterdir())
        assert KEY not in written and REPLICA_KEY not in written


@run
async def test_paths_methods_and_what_there_is(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas) as b:
        for method, path, status in (
            ("GET", "/", 404),
            ("GET", "/v1/completions", 405),
            ("POST", "/v1/models", 405),
            ("POST", "/v1/images/generations", 404),
            ("GET", "/v1/models/" + MODEL, 200),
            ("GET", "/v1/models/other", 404),
            ("GET", "/health", 200),
        ):
            async with b.client.request(method, f"{b.url}{path}", data=None) as r:
                body = await r.json()
                assert r.status == status, path
                assert ("error" in body) == (status != 200)
        async with b.client.get(f"{b.url}/metrics") as r:
            assert 'haproxy_server_status{proxy="model-chat",server="small.1"' in await r.text()
        assert (await raw(b, b"\x00\xff is no HTTP\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
        await b.complete(max_tokens=2)
        assert len(await b.log(7)) == 7, "looks at health and metrics are not logged"
        status, answer, _ = await b.post(b"{}", path="/v1/messages", **{"anthropic-version": "1"})
        assert status == 200
        status, answer, _ = await b.post(b"[]", path="/v1/messages")
        assert (status, answer["type"], answer["error"]["code"]) == (400, "error", "invalid_json")


def named(plan: Plan, **engine: object) -> Plan:
    (model,) = plan.models
    return dataclasses.replace(
        plan,
        models=(dataclasses.replace(model, engine=dataclasses.replace(model.engine, **engine)),),
    )


@run
async def test_served_names_and_adapters_are_models(tmp_path: Path) -> None:
    plan = named(
        split_plan(),
        args=("--served-model-name", "fast", "fast-latest", "--lora-modules", "sql=org/sql"),
    )
    replicas = {"small": [Replica("a")], "big": [Replica("b")]}
    async with proxy_bed(tmp_path, replicas, plan) as b:
        for name in ("fast", "fast-latest", "sql"):
            assert (await b.complete(model=name))[0] == 200
        assert (await b.complete(model=MODEL))[0] == 404
        async with b.client.get(f"{b.url}/v1/models") as r:
            listed = [card["id"] for card in (await r.json())["data"]]
        assert listed == ["fast", "fast-latest", "sql"]


@run
async def test_several_models_have_their_own_options(tmp_path: Path) -> None:
    first, second = split_plan().models[0], split_plan().models[0]
    second = dataclasses.replace(second, name="other", model="org/other")
    plan = dataclasses.replace(split_plan(), models=(first, second))
    replicas = {
        f"{model}/{option}": [Replica(f"{model}-{option}")]
        for model in ("chat", "other")
        for option in ("small", "big")
    }
    async with proxy_bed(tmp_path, replicas, plan) as b:
        for name, model in ((MODEL, "chat"), ("org/other", "other")):
            served = {(await b.complete(model=name))[1]["served_by"] for _ in range(8)}
            assert served == {f"{model}-small", f"{model}-big"}
        status, answer = await b.complete(model=None)
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        assert {line["model"] for line in await b.log(17)} == {"chat", "other", "none"}


@run
async def test_a_new_plan_is_taken_under_load_without_a_lost_request(tmp_path: Path) -> None:
    replicas = {
        "small": [Replica("a", itl_s=0.002)],
        "big": [Replica("b", itl_s=0.002), Replica("c", itl_s=0.002)],
    }
    async with proxy_bed(tmp_path, replicas, force_close=False) as b:
        statuses: Counter[object] = Counter()
        ended = False

        async def client(stream: bool) -> None:
            while not ended:
                status, text = await (b.stream() if stream else b.complete())
                whole = not stream or str(text).endswith("data: [DONE]\n\n")
                statuses[status if whole else "cut"] += 1

        workers = [asyncio.create_task(client(n % 2 == 0)) for n in range(16)]
        urls = {option: [r.url for r in group] for option, group in replicas.items()}
        for at in range(4):
            fewer = {"small": urls["small"], "big": urls["big"][at % 2 :]}
            b.export(split_plan(left=(0.0, 0.3, 1.0)[at % 3], instances=1 + at % 2), fewer)
            await b.reload()
            await asyncio.sleep(0.3)
        b.export(split_plan(left=1.0), urls)
        await b.reload()
        await asyncio.sleep(0.3)
        seen = len(replicas["small"][0].seen)
        assert {(await b.complete())[1]["served_by"] for _ in range(10)} == {"a"}
        assert len(replicas["small"][0].seen) >= seen + 10
        ended = True
        await together(workers)  # type: ignore[arg-type]
        assert set(statuses) == {200} and statuses[200] > 200


@pytest.mark.stack
@run
async def test_a_stream_outlives_the_reload_and_a_failure_is_tried_again_past_it(
    tmp_path: Path,
) -> None:
    replicas = {"small": [Replica("a", itl_s=0.05)], "big": [Replica("b", itl_s=0.05)]}
    async with proxy_bed(tmp_path, replicas, split_plan(left=1.0)) as b:
        long = asyncio.create_task(b.stream(max_tokens=40))
        replicas["small"][0].ttft_s = 1.0
        late = asyncio.create_task(b.complete())
        await b.settled(lambda: replicas["small"][0].running == 2)
        b.export(split_plan(left=0.0))
        await b.reload()
        replicas["small"][0].mode = "error"
        status, text = await long
        assert (status, text.endswith("[DONE]\n\n")) == (200, True)
        assert (await late)[0] == 200
        assert (await b.complete())[1]["served_by"] == "b"


def test_long_contexts_get_larger_buffers() -> None:
    from melange_sky.rendering.haproxy.limits import buffer_bytes

    class Model:
        def __init__(self, tokens: int) -> None:
            self.most_tokens = tokens

    sizes = [buffer_bytes([Model(n)]) for n in (0, 4096, 32_768, 131_072, 1_000_000)]  # type: ignore[list-item]
    assert sizes == [65_536, 65_536, 262_144, 262_144, 262_144]
    assert make_engine().max_model_len == 18000


@run
async def test_sessions_stay_and_share_as_planned_and_only_those_of_a_lost_replica_move(
    tmp_path: Path,
) -> None:
    replicas = {
        "small": [Replica("s1"), Replica("s2"), Replica("s3")],
        "big": [Replica("b1"), Replica("b2")],
    }
    plan = split_plan(left=0.7, rate=500.0)
    async with proxy_bed(tmp_path, replicas, plan, affinity="session", force_close=False) as b:
        body = json.dumps({"model": MODEL, "prompt": "word " * 10, "max_tokens": 3})

        async def served() -> dict[str, str]:
            found = {}
            for n in range(400):
                _, answer, _ = await b.post(body, **{"X-Session-Id": f"chat {n}"})
                found[f"chat {n}"] = answer["served_by"]
            return found

        first, again = await served(), await served()
        assert first == again
        at = Counter(name[0] for name in first.values())
        chi2 = (at["s"] - 280) ** 2 / 280 + (at["b"] - 120) ** 2 / 120
        assert chi2 < CHI2_999[1], at
        assert min(Counter(first.values()).values()) > 30, Counter(first.values())
        urls = {option: [r.url for r in group] for option, group in replicas.items()}
        b.export(plan, urls | {"small": urls["small"][1:]})
        await b.reload()
        await b.complete()  # the last on the connection that was kept to the old one
        moved = await served()
        assert all(moved[n] == first[n] or first[n] == "s1" for n in first)
        assert {moved[n] for n in first if first[n] == "s1"} == {"s2", "s3"}
        for name in ("user", "session_id", "conversation"):
            by_name = {(await b.complete(**{name: "chat 7"}))[1]["served_by"] for _ in range(5)}
            assert by_name == {moved["chat 7"]}
        spread = {(await b.complete())[1]["served_by"] for _ in range(20)}
        assert spread == {"s2", "s3", "b1", "b2"}, "without a session all are used"
