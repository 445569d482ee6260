"""Averages as a workload: the means kept, the spread stated, what no spread can be refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from melange_sky.errors import InputError
from melange_sky.spec import Spec, load_spec
from melange_sky.workload import Workload

RNG = np.random.default_rng(7)


def spec(**workload: Any) -> dict[str, Any]:
    return {
        "name": "chat",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": 60},
        "workload": {"rate_rps": 4, **workload},
    }


def planned(**workload: Any) -> Workload:
    loaded = load_spec(spec(**workload))
    assert isinstance(loaded, Spec)
    return loaded.models[0].workload


def means(workload: Workload) -> tuple[float, float]:
    total = workload.rate_rps
    cells = [(i, j) for i, row in enumerate(workload.rates_rps) for j in range(len(row))]
    found = [
        sum(workload.rates_rps[i][j] * sizes[i][j] for i, j in cells) / total
        for sizes in (workload.input_sizes, workload.output_sizes)
    ]
    return found[0], found[1]


@pytest.mark.parametrize(
    "inputs", [12, 1000, 30_000, {"mean": 1000, "p95": 1000}, {"mean": 700, "p95": 2500}]
)
@pytest.mark.parametrize("outputs", [1.5, 200, {"mean": 300, "p95": 310}])
def test_the_means_are_kept(inputs: Any, outputs: Any) -> None:
    workload = planned(input_tokens=inputs, output_tokens=outputs)
    wanted = [value["mean"] if isinstance(value, dict) else value for value in (inputs, outputs)]
    assert workload.rate_rps == pytest.approx(4)
    assert means(workload)[0] == pytest.approx(wanted[0], rel=2e-3)
    # A size is at least one token: where outputs are hardly longer, a little more than the mean.
    assert means(workload)[1] == pytest.approx(wanted[1], rel=2e-3 if wanted[1] > 10 else 0.2)
    for sizes, edges, axis in (
        (workload.input_sizes, workload.input_edges, 0),
        (workload.output_sizes, workload.output_edges, 1),
    ):
        for i, row in enumerate(sizes):
            for j, size in enumerate(row):
                k = (i, j)[axis]
                assert size >= edges[k]
                assert size <= edges[k + 1] or k == len(edges) - 2


@pytest.mark.parametrize("p95", [1500, 2592, 3800])
def test_buckets_are_those_of_the_log_normal_that_has_this_mean_and_percentile(p95: int) -> None:
    workload = planned(input_tokens={"mean": 1000, "p95": p95}, output_tokens=200)
    # σ found by bisection: the 95th percentile ÷ mean rises with it up to 1.645.
    low, high = 0.0, 1.645
    for _ in range(60):
        sigma = (low + high) / 2
        low, high = (
            (sigma, high)
            if math.exp(1.6448536 * sigma - sigma**2 / 2) < p95 / 1000
            else (low, sigma)
        )
    drawn = np.exp(math.log(1000) - sigma**2 / 2 + sigma * RNG.standard_normal(400_000))
    assert np.quantile(drawn, 0.95) == pytest.approx(p95, rel=0.02)
    edges = list(workload.input_edges)
    counts = np.histogram(np.minimum(drawn, edges[-1]), bins=edges)[0] / len(drawn)
    rows = np.array(workload.rates_rps).sum(axis=1) / workload.rate_rps
    assert rows == pytest.approx(counts, abs=4e-3)


def test_what_is_assumed_is_told() -> None:
    workload = planned(input_tokens=1000, output_tokens={"mean": 200, "p95": 500})
    assert "input mean 1000, p95 2592, assumed" in workload.source
    assert "output mean 200, p95 500 tokens, log-normal and independent" in workload.source
    (warning,) = workload.warnings
    assert warning.startswith("only the mean of input tokens is given")
    assert (
        planned(input_tokens={"mean": 9, "p95": 9}, output_tokens={"mean": 9, "p95": 9}).warnings
        == ()
    )


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        ({"input_tokens": 1000}, "workload: output_tokens is missing: averages are of both sides"),
        ({"output_tokens": 1000}, "workload: input_tokens is missing"),
        (
            {"input_tokens": 0.5, "output_tokens": 9},
            "workload.input_tokens: must be a number of tokens from 1",
        ),
        (
            {"input_tokens": "many", "output_tokens": 9},
            "workload.input_tokens: must be a number of tokens",
        ),
        (
            {"input_tokens": True, "output_tokens": 9},
            "workload.input_tokens: must be a number of tokens",
        ),
        (
            {"input_tokens": {"p95": 9}, "output_tokens": 9},
            "workload.input_tokens: mean is missing",
        ),
        (
            {"input_tokens": {"mean": 9, "p99": 9}, "output_tokens": 9},
            "unknown key 'p99'; known: mean, p95",
        ),
        ({"input_tokens": {"mean": 9, "p95": 8}, "output_tokens": 9}, "p95 is 8, below the mean 9"),
        (
            {"input_tokens": {"mean": 100, "p95": 500}, "output_tokens": 9},
            "workload.input_tokens: p95 is 5 times the mean, more than a log-normal's can be (3.87)",
        ),
        (
            {"input_tokens": 9, "output_tokens": 9, "distribution": "short-chat"},
            "workload: only one of distribution, trace, histogram and input_tokens with output_tokens can be given",
        ),
        (
            {"input_tokens": 9, "output_tokens": 9, "keep_failed": True},
            "workload.keep_failed: applies to a trace",
        ),
        (
            {"input_tokens": 9, "output_tokens": 9, "timezone": "UTC"},
            "workload.timezone: applies to a trace",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_line(workload: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_spec(spec(**workload))
    assert words in str(caught.value)


def test_columns_zone_and_failures_of_a_trace_are_keys(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "when,a,b,c\n2025-10-26 02:30:00,9,5,ok\n2025-10-26 02:10:00,9,5,error\n2025-10-26 03:00:00,9,5,ok\n"
    )
    given = {
        "trace": str(tmp_path / "log.csv"),
        "columns": {"time": "when", "input": "a", "output": "b", "status": "c"},
        "timezone": "Europe/Berlin",
    }
    document = spec()
    document["workload"] = {**given, "keep_failed": True, "rate": "mean"}
    loaded = load_spec(document)
    assert isinstance(loaded, Spec)
    # 00:30, 01:10 (the second 02:10 of that night) and 02:00 in UTC.
    assert loaded.models[0].workload.rate_rps == pytest.approx(2 / 5400)
    document["workload"] = {**given, "columns": "time=when,input=a,output=b,status=d"}
    with pytest.raises(
        InputError, match=r"line 1: has no column 'd' for status; it has when, a, b, c"
    ):
        load_spec(document)
    document["workload"] = {**given, "columns": {"tiem": "when"}}
    with pytest.raises(
        InputError, match=r"workload.columns: unknown role 'tiem' \(did you mean 'time'\?\)"
    ):
        load_spec(document)
    document["workload"] = {**given, "timezone": "Berlin"}
    with pytest.raises(
        InputError, match=r"workload.timezone: unknown zone 'Berlin' \(did you mean 'Europe/Berlin'"
    ):
        load_spec(document)
