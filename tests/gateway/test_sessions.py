"""Sessions through a real gateway: each stays at its replica, and moves only where it must."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from melange_sky.gateway import Affinity
from melange_sky.gateway.client_request import ApiPath, parse_request
from melange_sky.gateway.sessions import MOST_KNOWN, Session, Sessions
from tests.gateway.bed import FAST, MODEL, Bed, bed, run, split_plan, together
from tests.gateway.replica import Replica

STICKY = replace(FAST, affinity=Affinity.SESSION)


def five() -> dict[str, list[Replica]]:
    return {"small": [Replica(f"s{n}") for n in range(5)], "big": [Replica("big")]}


async def served_by(b: Bed, body: dict[str, Any], **headers: str) -> str:
    whole = {"model": MODEL, "prompt": "hello", "max_tokens": 2} | body
    path = "chat/completions" if "messages" in whole else "completions"
    async with b.client.post(f"{b.url}/v1/{path}", json=whole, headers=headers) as response:
        assert response.status == 200
        name: str = (await response.json())["served_by"]
        return name


NAMES: dict[str, Any] = {
    "header": ({}, lambda n: {"X-Session-Id": f"chat-{n}"}),
    "user": (lambda n: {"user": f"u{n}"}, lambda n: {}),
    "safety_identifier": (lambda n: {"safety_identifier": f"u{n}"}, lambda n: {}),
    "prompt_cache_key": (lambda n: {"prompt_cache_key": f"u{n}"}, lambda n: {}),
    "session_id": (lambda n: {"session_id": f"u{n}"}, lambda n: {}),
}


@pytest.mark.parametrize("named", NAMES)
@run
async def test_requests_of_a_session_go_to_one_replica_whatever_names_it(named: str) -> None:
    body, headers = NAMES[named]
    async with bed(five(), split_plan(left=1.0), STICKY) as b:
        at: dict[int, set[str]] = {}
        for _ in range(3):
            for n in range(20):
                fields = body(n) if callable(body) else body
                at.setdefault(n, set()).add(await served_by(b, fields, **headers(n)))
        assert all(len(names) == 1 for names in at.values())
        assert len(set.union(*at.values())) >= 3  # which, is by the ports that the replicas got
        assert await b.metric("melange_gateway_affinity_total", result="first") == 20
        assert await b.metric("melange_gateway_affinity_total", result="hit") == 40


@run
async def test_a_chat_without_a_name_is_known_by_its_beginning() -> None:
    async with bed(five(), split_plan(left=1.0), STICKY) as b:
        used = set()
        for n in range(20):
            history = [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": f"question {n}"},
            ]
            at = set()
            for turn in range(3):
                at.add(await served_by(b, {"messages": history}))
                history += [
                    {"role": "assistant", "content": f"answer {turn}"},
                    {"role": "user", "content": f"more {turn}"},
                ]
            assert len(at) == 1
            used |= at
        assert len(used) >= 3


@run
async def test_prompts_that_begin_alike_go_together_and_off_spreads_them() -> None:
    settings = replace(FAST, affinity=Affinity.PREFIX, prefix_blocks=1)
    for how, most in ((settings, 1), (FAST, 5)):
        async with bed(five(), split_plan(left=1.0), how) as b:
            text = "A document that many ask about. " * 9
            at = {await served_by(b, {"prompt": text + f"question {n}"}) for n in range(10)}
            assert len(at) == most


@run
async def test_a_lost_replicas_sessions_spread_and_come_back_and_no_other_moves() -> None:
    replicas = five()
    async with bed(replicas, split_plan(left=1.0), STICKY) as b:

        async def round_of() -> dict[int, str]:
            return {n: await served_by(b, {"user": f"u{n}"}) for n in range(60)}

        before = await round_of()
        lost = replicas["small"][2]
        lost.healthy = False
        (service,) = b.gateway.fleet.services.values()
        backend = next(x for x in service.backends if str(x.url).startswith(lost.url))
        await b.settled(lambda: not backend.answers_probes)
        away = await round_of()
        assert {before[n] for n in before if before[n] != away[n]} == {lost.name}
        assert len({away[n] for n in before if before[n] == lost.name}) > 1
        lost.healthy = True
        await b.settled(lambda: backend.answers_probes)
        assert await round_of() == before


@run
async def test_a_hot_session_spills_and_no_replica_holds_more_than_its_part() -> None:
    replicas = {"small": [Replica(f"s{n}", ttft_s=0.3) for n in range(4)], "big": [Replica("big")]}
    async with bed(replicas, split_plan(left=1.0, rate=500.0), STICKY) as b:
        held = Counter[str]()

        async def one() -> None:
            held[await served_by(b, {"user": "hot"})] += 1

        await together([one() for _ in range(40)])
        assert max(held.values()) <= 13  # ceil(1.25 × 40 / 4)
        assert len(held) == 4
        assert await b.metric("melange_gateway_affinity_total", result="spilled") > 0


@run
async def test_two_gateways_send_a_session_to_the_same_replica() -> None:
    replicas = five()
    settings = replace(STICKY, gateways=2)
    async with (
        bed(replicas, split_plan(left=1.0), settings) as one,
        bed(replicas, split_plan(left=1.0), settings) as other,
    ):
        for n in range(20):
            body = {"user": f"u{n}"}
            assert await served_by(one, body) == await served_by(other, body)


@run
async def test_a_response_that_goes_on_reaches_the_replica_that_keeps_the_first() -> None:
    replicas = five()
    async with bed(replicas, split_plan(left=1.0), STICKY) as b:

        async def respond(stream: bool = False, **over: Any) -> tuple[str, str]:
            before = {r.name: len(r.seen) for r in replicas["small"]}
            body = {"model": MODEL, "input": "hello", "max_output_tokens": 2, "stream": stream}
            async with b.client.post(f"{b.url}/v1/responses", json=body | over) as response:
                assert response.status == 200
                text = await response.text()
            (at,) = [r.name for r in replicas["small"] if len(r.seen) > before[r.name]]
            lines = [line for line in text.splitlines() if "resp_" in line]
            document = json.loads(lines[-1].removeprefix("data: "))
            known = document.get("response", document)["id"]
            return at, known

        for stream in (False, True):
            for n in range(8):
                at, known = await respond(stream, user=f"{stream}{n}")
                for _ in range(2):
                    again, known = await respond(stream, previous_response_id=known)
                    assert again == at


@run
async def test_cached_tokens_are_counted_as_replicas_report_them() -> None:
    replica = Replica("a")
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 64},
    }
    body = json.dumps({"choices": [{"text": "t t"}], "usage": usage}).encode()
    replica.whole = ({"Content-Type": "application/json"}, body)
    async with bed({"small": [replica], "big": [Replica("b")]}, split_plan(left=1.0)) as b:
        await b.complete()
        assert await b.metric("melange_gateway_tokens_total", kind="cached") == 64


def session(body: dict[str, Any], given: str | None = None) -> Session | None:
    sessions = Sessions("X-Session-Id", 4)
    path = ApiPath.CHAT if "messages" in body else ApiPath.TEXT
    request = parse_request(path, json.dumps({"model": "m"} | body).encode())
    return sessions.of(Affinity.SESSION, given, request)


def test_what_names_a_session_and_which_goes_first() -> None:
    assert session({"user": "b"}, "a") == session({"session_id": "a"})
    assert session({"user": "b", "prompt_cache_key": "k"}) == session({"prompt_cache_key": "k"})
    assert session({"metadata": {"user_id": "z"}}) == session({"user": "z"})
    assert session({"conversation": {"id": "c"}}) == session({"conversation": "c"})
    for odd in ({"user": 3}, {"user": ""}, {"user": None}, {"metadata": []}, {"session_id": [1]}):
        assert session({"prompt": "p"} | odd) is None
    assert session({"prompt": "p"}) is None
    assert session({"messages": [{"role": "user", "content": "\ud800"}]}) is not None
    assert session({"messages": "odd"}) is not None


def test_what_is_remembered_is_bounded_and_holds_no_text() -> None:
    sessions = Sessions("X-Session-Id", 4)
    backend: Any = object()
    for n in range(MOST_KNOWN + 10):
        kept = Session(n + 1)
        assert sessions.went(kept, backend, 0) == "first"
        sessions.answered(kept, backend, f"resp_{n}")
    assert len(sessions._last) == len(sessions._answers) == MOST_KNOWN
    assert not any(b"resp_" in key for key in sessions._answers)
    sessions.forget([])
    assert not sessions._last and not sessions._answers
