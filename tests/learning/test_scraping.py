"""Servers' pages, read over HTTP as a monitoring system reads them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.learning import Scrape
from melange_sky.planner.traffic_learning import (
    LearnOptions,
    learn_from_traffic,
    window_seconds,
)
from melange_sky.profiler.endpoint import Endpoint, ServerPages
from melange_sky.profiler.scraping import Scraping, scrape_of
from tests.cli.runner import call
from tests.learning.pages import ENGINE, page_of
from tests.learning.scraped import counted
from tests.loopback import answering

LOOK = Scrape(
    time_s=0.0,
    figures={
        "running": 4.0,
        "waiting": 0.0,
        "kv_use": 0.25,
        "decode_s": 120.5,
        "decoded": 4000.0,
        "prompted": 90000.0,
        "first_tokens": 100.0,
        "ttft_s": 31.0,
    },
    prompts=counted(np.array([100, 700, 900])),
    answers=counted(np.array([20, 30, 40])),
)

ELSEWHERE = "on the page; vLLM counts them under these names: is this its /metrics?"


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve pages one after the other, the last one again and again; return the address."""
    with contextlib.ExitStack() as stack:

        def start(*pages: str | int) -> str:
            left = list(pages)

            def answer(request: BaseHTTPRequestHandler) -> tuple[int, bytes]:
                if request.path == "/version":
                    return 200, b'{"version": "0.33.0"}'
                page = left.pop(0) if len(left) > 1 else left[0]
                return (200, page.encode()) if isinstance(page, str) else (page, b"")

            return stack.enter_context(answering(answer))

        yield start


def scraping(*urls: str, every_s: float = 0.02) -> Scraping:
    endpoints = [Endpoint(url=url, model="m", pages=ServerPages.of(ENGINE)) for url in urls]
    return Scraping(endpoints=endpoints, engine=ENGINE, every_s=every_s)


def test_a_page_is_read_as_prometheus_reads_it() -> None:
    page = page_of(LOOK)
    assert len(list(text_string_to_metric_families(page))) > 5
    assert scrape_of(page, ENGINE, 0.0, "here") == LOOK


def test_engines_behind_one_port_are_added_up() -> None:
    found = scrape_of(page_of(LOOK, engines=4), ENGINE, 0.0, "here")
    assert found == dataclasses.replace(LOOK, engines=4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda page: page.replace("vllm:inter_token_latency", "vllm:itl"),
            f"here: no vllm:inter_token_latency_seconds_sum, vllm:inter_token_latency_seconds_count {ELSEWHERE}",
        ),
        (
            lambda page: page + page.replace('"m"', '"another"'),
            "here: figures of several models on one page (another, m)",
        ),
        (
            lambda page: page.replace("120.5", "NaN"),
            "here: vllm:inter_token_latency_seconds_sum is nan, which counts nothing",
        ),
        (
            lambda page: page.replace("4000.0", "-1"),
            "here: vllm:inter_token_latency_seconds_count is -1, which counts nothing",
        ),
        (
            lambda page: "<html>It works!</html>",
            f"here: no vllm:num_requests_running, vllm:num_requests_waiting, vllm:kv_cache_usage_perc … {ELSEWHERE}",
        ),
    ],
)
def test_a_page_that_tells_nothing_is_refused_in_a_line(change, said) -> None:
    with pytest.raises(InputError) as error:
        scrape_of(change(page_of(LOOK)), ENGINE, 0.0, "here")
    assert str(error.value) == said


def test_hostile_labels_and_edges_are_harmless() -> None:
    bomb = "".join(f'vllm:request_prompt_tokens_bucket{{le="{k}x"}} 1\n' for k in range(20000))
    long = f'vllm:unknown{{a="{"x" * 1_000_000}"}} 1\n'
    assert scrape_of(page_of(LOOK) + bomb + long, ENGINE, 0.0, "here") == LOOK


def test_looks_without_an_answer_are_counted_not_guessed(serve) -> None:
    page = page_of(LOOK)
    found = scraping(serve(page, 500, page, "gone", page))
    found.run(0.15)
    assert (found.missed, found.unread) == (1, 1)
    assert len(found.looks[0]) >= 3
    assert found.versions == ["0.33.0"]


def test_a_page_longer_than_any_is_cut_off(serve) -> None:
    found = scraping(serve(page_of(LOOK) + "x" * 20_000_000), every_s=5.0)
    found.run(0.01)
    assert len(found.looks[0]) == 1


def test_a_server_that_never_tells_is_said_at_once(serve) -> None:
    with pytest.raises(SourceUnavailableError, match="no /metrics at http:"):
        scraping(serve(503), every_s=5.0).run(60.0)
    with pytest.raises(InputError, match="is this its /metrics"):
        scraping(serve("nothing"), every_s=5.0).run(60.0)


def test_too_short_a_look_is_said_with_what_to_do(serve) -> None:
    with pytest.raises(InputError) as error:
        learn_from_traffic(
            LearnOptions(
                metrics=[serve(page_of(LOOK)) + "/metrics"],
                model="Qwen/Qwen3-8B",
                accelerator="H100:1",
                window="0.1s",
                every_s=0.02,
            )
        )
    assert str(error.value) == (
        "only 0 minutes with enough traffic were seen, 5 are needed; look longer (--window 0.1s)"
    )


@pytest.mark.parametrize("text", ["", "5", "-1h", "0m", "1y", "1e9h h", "nan h"])
def test_windows_are_times(text) -> None:
    with pytest.raises(InputError) as error:
        window_seconds(text)
    assert str(error.value) == f"--window {text!r} is no time; write 30m, 24h or 7d"


def test_the_command_asks_for_what_it_needs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path))
    asked = ["profile", "learn", "--model", "Qwen/Qwen3-8B", "--accelerator", "H100:1"]
    code, _, said = call(capsys, *asked, "--metrics", "ftp://x")
    assert code == 2
    assert "is not an http:// or https:// address" in said
    code, _, said = call(capsys, *asked, "--metrics", "http://127.0.0.1:9", "--window", "soon")
    assert code == 2
    assert "--window 'soon' is no time; write 30m, 24h or 7d" in said
    half = [*asked[:-1], "H100:0.5", "--metrics", "http://127.0.0.1:9"]
    code, _, said = call(capsys, *half)
    assert (code, said) == (2, "error: --accelerator: a replica needs a whole number of GPUs\n")
    code, _, said = call(capsys, *asked, "--metrics", "http://127.0.0.1:9", "--window", "1m")
    assert code == 4
    assert "no /metrics at http://127.0.0.1:9" in said
