"""The load generator against a server whose true times are known."""

from __future__ import annotations

import asyncio
import json
import math
import time
import urllib.request
from dataclasses import replace
from typing import Any

import aiohttp
import numpy as np
import pytest

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.errors import InputError
from melange_sky.profiler.endpoint import Endpoint, ServerPages
from melange_sky.profiler.load import LoadOutcome, LoadToSend, run_load
from melange_sky.profiler.metrics import until_idle
from melange_sky.profiler.prompts import (
    PromptStyle,
    poisson_offsets,
    request_bodies,
    trace_offsets,
)
from tests.machine import slowness
from tests.profiler.conftest import StartServer

PAGES = ServerPages.of(DEFAULT_ENGINE)


def send(url: str, rate: float, count: int, sizes=(20, 32), style=None, **more: Any) -> LoadOutcome:
    endpoint = Endpoint(url=url, model="known", timeout_s=more.pop("timeout_s", 20.0), pages=PAGES)
    load = LoadToSend(
        bodies=request_bodies("known", sizes, count, style or PromptStyle(), seed=1),
        due_s=poisson_offsets(rate, count, 1),
        input_tokens=sizes[0],
        output_tokens=sizes[1],
        **more,
    )
    return asyncio.run(run_load(endpoint, load))


def server_says(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url + "/log", timeout=10) as response:
        said: dict[str, Any] = json.load(response)
    return said


def test_times_are_those_of_the_server(start_server: StartServer) -> None:
    """TTFT and TPOT within 2 % of when the server really wrote, on a usual machine."""
    url = start_server(ttft=0.1, itl=0.005)
    outcome = send(url, 40.0, 60)
    log = outcome.log
    assert log.ok.all()
    assert (log.output_tokens == 32).all()
    assert (log.input_tokens == 20).all()
    truth = server_says(url)["log"]
    ttft = np.median([e["first"] - e["received"] for e in truth])
    tpot = np.median([(e["last"] - e["first"]) / 31 for e in truth])
    within = 0.02 * slowness()
    assert np.median(log.ttft_s) == pytest.approx(ttft, rel=within)
    assert np.median(log.tpot_s) == pytest.approx(tpot, rel=within)


def test_fast_load_leaves_the_client_half_idle(start_server: StartServer) -> None:
    """200 requests a second of 32 tokens: under half a core of a usual machine, and sent on time."""
    outcome = send(start_server(ttft=0.02, itl=0.01), 200.0, 400)
    assert outcome.log.ok.all()
    assert outcome.cpu_s / outcome.wall_s < 0.5 * slowness()
    assert np.median(outcome.lateness_s) < 0.01 * slowness()


def test_the_stream_is_open_loop_and_absolute(start_server: StartServer) -> None:
    """A server with one slot falls behind; requests are sent on time nevertheless."""
    outcome = send(start_server(ttft=0.05, itl=0.0, slots=1), 60.0, 60, sizes=(20, 1))
    due = poisson_offsets(60.0, 60, 1)
    assert np.median(outcome.log.arrival_s - due) < 0.01
    assert abs(outcome.log.arrival_s[-1] - due[-1]) < 0.2
    assert outcome.log.ttft_s[-1] > 20 * 0.05


def test_prompts_are_unique_but_for_the_shared_part(start_server: StartServer) -> None:
    url = start_server()
    send(url, 500.0, 20, sizes=(40, 2), style=PromptStyle(prefix_share=0.5))
    prompts = server_says(url)["prompts"]
    assert len({tuple(p[:20]) for p in prompts}) == 1
    assert len({tuple(p[20:]) for p in prompts}) == 20
    assert all(len(p) == 40 for p in prompts)
    words = start_server()
    outcome = send(words, 500.0, 20, sizes=(40, 2), style=PromptStyle(words=True))
    assert outcome.log.input_tokens.tolist() == [40] * 20
    assert len({str(p)[:12] for p in server_says(words)["prompts"]}) == 20


def test_metrics_of_the_server_are_kept(start_server: StartServer) -> None:
    outcome = send(start_server(ttft=0.2, itl=0.0), 30.0, 45, sizes=(20, 1))
    assert outcome.server is not None
    summary = outcome.server.summary()
    assert summary is not None
    assert summary["kv_use_max"] == 0.25
    assert summary["running_max"] >= 1
    assert summary["preemptions"] >= 0


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("500", "HTTP 500: engine died"),
        ("malformed", "malformed SSE: {broken"),
        ("early", "the stream ended early, without [DONE]"),
        ("reset", "connection failed: ClientPayloadError"),
        ("short", "ended early: 16 of 32 output tokens"),
        ("hang", "timed out"),
    ],
)
def test_faults_are_counted_by_kind(start_server: StartServer, fault: str, told: str) -> None:
    """The first five are fine, the rest fail; none is sent twice."""
    url = start_server(fault=fault, after=5)
    outcome = send(url, 200.0, 15, timeout_s=1.0)
    assert int(outcome.log.ok.sum()) == 5
    ((text, count),) = outcome.errors.items()
    assert text.startswith(told)
    assert count == 10
    assert len(server_says(url)["prompts"]) == 15


def test_a_load_is_ended_early_where_enough_is_seen(start_server: StartServer) -> None:
    """What was answered before the first request under way is kept, the rest is given up."""
    url = start_server(ttft=0.3, itl=0.0, slots=1)
    endpoint = Endpoint(url=url, model="known", timeout_s=60.0)
    load = LoadToSend(
        bodies=request_bodies("known", (20, 1), 400, PromptStyle(), seed=1),
        due_s=poisson_offsets(100.0, 400, 1),
        input_tokens=20,
        output_tokens=1,
    )
    seen: list[int] = []

    def enough(log: Any) -> bool:
        seen.append(len(log))
        return len(log) >= 4

    outcome = asyncio.run(run_load(endpoint, load, enough))
    assert 4 <= len(outcome.log) < 400
    assert len(outcome.log) == seen[-1] == len(outcome.lateness_s)
    assert outcome.log.ok.all()
    assert outcome.wall_s < 60  # all of it would take two minutes
    assert not outcome.errors


def test_an_ended_load_leaves_an_idle_server(start_server: StartServer) -> None:
    """A server goes on with answers that nobody reads: the next probe must not meet them."""
    url = start_server(ttft=0.9, itl=0.0)
    load = LoadToSend(
        bodies=request_bodies("known", (20, 1), 400, PromptStyle(), seed=1),
        due_s=poisson_offsets(40.0, 400, 1),
        input_tokens=20,
        output_tokens=1,
    )

    async def run() -> tuple[bytes, float, float]:
        endpoint = Endpoint(url=url, model="known", timeout_s=60.0, pages=PAGES)
        outcome = await run_load(endpoint, load, lambda log: len(log) >= 4)
        assert len(outcome.log) < 400
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/metrics") as response:
                page = await response.read()
            marks = [time.monotonic()]
            for base in (url, f"{url}/says-nothing"):
                await until_idle(session, replace(endpoint, url=base), blind_s=0.6)
                marks.append(time.monotonic())
        return page, marks[1] - marks[0], marks[2] - marks[1]

    page, idle_s, blind_s = asyncio.run(run())
    assert b'num_requests_running{engine="0"} 0.0' in page
    assert idle_s < 0.6 <= blind_s + 0.01


def test_a_dead_server_is_given_up(start_server: StartServer) -> None:
    url = start_server(fault="die", after=5)
    outcome = send(url, 100.0, 300, give_up_after=10)
    assert not outcome.log.ok[20:].any()
    assert outcome.errors["not sent: the endpoint had failed"] > 250
    assert outcome.wall_s < 5


def test_offsets() -> None:
    gaps = np.diff(poisson_offsets(50.0, 20_000, 3))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)
    assert (poisson_offsets(5.0, 10, 1) == poisson_offsets(5.0, 10, 1)).all()
    for count in (1, 7, 100):  # the rate is met exactly over a probe, only the gaps are chance
        assert poisson_offsets(5.0, count, 1)[-1] <= (count + 1) / 5.0
    bursts = trace_offsets([0.0, 0.1, 0.2, 10.0, 10.1, 10.2, 20.0], 2.0, 60, seed=4)
    assert bursts[-1] == pytest.approx(60 / 2.0)
    assert np.diff(bursts).min() * 50 < np.diff(bursts).max()
    assert (bursts != trace_offsets([0.0, 0.1, 0.2, 10.0, 10.1, 10.2, 20.0], 2.0, 60, seed=5)).any()
    # a clock of whole seconds: what it lumps together is sent over its second, not at once
    lumps = [float(second) for second in (0, 1, 2, 10) for _ in range(30)]
    for seed in range(20):
        due = trace_offsets(lumps, 10.0, 25, seed)
        assert due[-1] == pytest.approx(25 / 10.0)
        gaps = np.diff(due)
        assert gaps.min() > 0
        within = np.sort(gaps)[:-1]  # at most one of them leads to the next lump
        assert within.max() == pytest.approx(within.min())
    for wrong in ([], [1.0], [2.0, 2.0], [0.0, math.nan]):
        with pytest.raises(InputError, match="trace of arrivals"):
            trace_offsets(wrong, 1.0, 5, 0)
