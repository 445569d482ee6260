"""Every call that OpenAI's and Anthropic's clients make: routed, counted and told as what it is."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from melange_sky.engines import EngineChoice
from melange_sky.errors import InputError
from melange_sky.gateway import Settings
from melange_sky.gateway.pool import Fleet
from melange_sky.gateway.seating import served_names
from melange_sky.planner.observed_file import ObservedFile
from melange_sky.plans import Allocation
from tests.factories import (
    make_capacity,
    make_engine,
    make_model_plan,
    make_option,
    make_plan,
    make_workload,
)
from tests.gateway.bed import MODEL, Bed, bed, run, split_plan
from tests.gateway.replica import Replica

ONLY_SMALL = split_plan(left=1.0)
TEXT = "word " * 20


def one() -> dict[str, list[Replica]]:
    return {"small": [Replica("a")]}


async def post(b: Bed, path: str, **body: Any) -> tuple[int, str]:
    async with b.client.post(f"{b.url}{path}", json={"model": MODEL} | body) as r:
        return r.status, await r.text()


CALLS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 5}),
    ("/v1/completions", {"prompt": TEXT, "max_tokens": 5}),
    ("/v1/responses", {"input": TEXT, "max_output_tokens": 5}),
    (
        "/v1/responses",
        {
            "instructions": "short",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
            "max_output_tokens": 5,
        },
    ),
    (
        "/v1/messages",
        {
            "system": [{"type": "text", "text": "short"}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}]}],
            "max_tokens": 5,
        },
    ),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), CALLS, ids=[f"{n}" for n in range(len(CALLS))])
@run
async def test_every_call_that_writes_is_served_and_counted(
    path: str, body: dict[str, Any], stream: bool
) -> None:
    replicas = one()
    async with bed(replicas, ONLY_SMALL) as b:
        status, text = await post(b, path, **body, stream=stream)
        assert status == 200, text
        assert replicas["small"][0].paths == [path]
        assert {k: replicas["small"][0].seen[0][k] for k in body} == body
        assert await b.metric("melange_gateway_tokens_total", kind="output") == 5
        assert await b.metric("melange_gateway_tokens_total", kind="prompt") == 40
        if path == "/v1/responses" and stream:
            assert text.startswith("event: response.output_text.delta\ndata: ")
            assert '"usage"' in text, "counts are a part of this stream, asked for or not"


@run
async def test_other_calls_pass_and_what_a_replica_has_not_is_told_in_its_own_words() -> None:
    replicas = one()
    async with bed(replicas, ONLY_SMALL) as b:
        assert await post(b, "/v1/embeddings", input=["a", "b"]) == (404, '{"detail": "Not Found"}')
        for path, body in (
            ("/tokenize", {"prompt": "x"}),
            ("/tokenize", {"messages": [{"role": "user", "content": "x"}]}),
            ("/detokenize", {"tokens": [1, 2]}),
            ("/v1/messages/count_tokens", {"messages": []}),
        ):
            status, text = await post(b, path, **body)
            assert (status, json.loads(text)["count"]) == (200, 2)
        replicas["small"][0].no_such.add("/v1/messages")
        assert (await post(b, "/v1/messages", messages=[], max_tokens=1))[0] == 404
        assert b.gateway.fleet.backends[0].ejection.out is False
        assert await b.metric("melange_gateway_requests_total") == 0, "nothing was written"


@run
async def test_models_by_name_and_anthropics_key_and_errors() -> None:
    async with bed(one(), ONLY_SMALL) as b:
        async with b.client.get(f"{b.url}/v1/models/{MODEL}") as r:
            assert (r.status, (await r.json())["id"]) == (200, MODEL)
        async with b.client.get(f"{b.url}/v1/models/no/such") as r:
            assert (r.status, (await r.json())["error"]["code"]) == (404, "model_not_found")
        key = b.client.headers["Authorization"].removeprefix("Bearer ")
        body = {"model": MODEL, "messages": [], "max_tokens": 1}
        for given, status in (({"x-api-key": key}, 200), ({"x-api-key": "wrong"}, 401), ({}, 401)):
            async with (
                aiohttp.ClientSession(headers=given) as plain,
                plain.post(f"{b.url}/v1/messages", json=body) as r,
            ):
                assert r.status == status
                if status == 401:
                    answer = await r.json()
                    assert answer["type"] == "error"
                    assert answer["error"]["type"] == "authentication_error"


@run
async def test_a_batch_is_routed_counted_and_observed_as_its_prompts(tmp_path: Path) -> None:
    replicas = {"small": [Replica("a", ttft_s=0.05)]}
    file = tmp_path / "observed.yaml"
    sink = ObservedFile(file)
    async with bed(replicas, ONLY_SMALL, observed=sink) as b:
        (service,) = b.gateway.fleet.services.values()
        asking = asyncio.create_task(b.complete(prompt=["word " * 10] * 8))
        await b.settled(lambda: replicas["small"][0].running == 1)
        assert service.router.state.in_flight[0] == 8, "eight sequences at work"
        status, _ = await asking
        assert status == 200
        assert service.router.state.in_flight[0] == 0
        assert await b.metric("melange_gateway_requests_total") == 8
        assert await b.metric("melange_gateway_tokens_total", kind="output") == 24
    sink.write()
    seen = yaml.safe_load(file.read_text())["workload"]["histogram"]
    assert "requests: 8" in file.read_text()
    sizes = seen["input_sizes"][0][0], seen["output_sizes"][0][0]
    assert sizes == (5, 3), "of each prompt, not of all together"


def named(*args: str) -> list[str]:
    return served_names(make_model_plan(engine=EngineChoice(args=args)))


def test_adapters_are_models_too() -> None:
    model = make_model_plan().model
    assert named("--enable-lora", "--lora-modules", "sql=org/sql-lora") == [model, "sql"]
    assert named("--served-model-name", "fast", "fast-latest") == ["fast", "fast-latest"]
    json_form = '{"name": "law", "path": "org/law", "base_model_name": "x"}'
    assert named("--served-model-name", "fast", "--lora-modules", "sql=a", json_form) == [
        "fast",
        "sql",
        "law",
    ]


@run
async def test_bodies_are_bounded_by_the_longest_context_unless_set() -> None:
    fleet = Fleet(random.Random(1), Settings(), None)
    fleet.load(fleet.prepare(split_plan(), {}))
    assert fleet.body_bytes == 4 * 2**20
    engine = make_engine(max_model_len=1_000_000)
    option = make_capacity([[1.0]], make_option("long", engine=engine))
    share = ((1.0,),)
    one_long = Allocation(
        candidate=option, instances=1, load_fraction=0.1, rate_rps=1.0, shares=share
    )
    plan = make_plan(candidates=(option,), allocations=(one_long,), workload=make_workload([[1.0]]))
    fleet.load(fleet.prepare(plan, {}))
    assert fleet.body_bytes == 16_000_000
    fixed = Fleet(random.Random(1), Settings(body_bytes=9000), None)
    fixed.load(fixed.prepare(plan, {}))
    assert fixed.body_bytes == 9000


@run
async def test_two_models_by_one_name_are_refused_and_nothing_is_taken() -> None:
    (first,) = split_plan().models
    twice = make_plan(
        models=(first, dataclasses.replace(first, name="other")), lists_models=True, name="both"
    )
    fleet = Fleet(random.Random(1), Settings(), None)
    fleet.load(fleet.prepare(split_plan(), {}))
    before = fleet.services, fleet.by_model
    with pytest.raises(InputError, match="is the name of chat and of other"):
        fleet.load(fleet.prepare(twice, {}))
    assert (fleet.services, fleet.by_model) == before
