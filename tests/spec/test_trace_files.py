"""Traces in several files: one stream by time, and what cannot be one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melange_sky.errors import InputError
from melange_sky.planner.workloads import count_trace
from melange_sky.spec import blocks_of, files_of, load_spec, trace_name
from melange_sky.spec.demand import load_distribution
from melange_sky.spec.trace_files import histogram_of_trace

HEADER = "arrival_s,input_tokens,output_tokens\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of one hour, one after the other; and one whose times are dates."""
    rng = np.random.default_rng(4)
    for k in range(3):
        at = np.sort(rng.uniform(k * 1200, (k + 1) * 1200, 500)) + 0.25
        rows = [f"{t:.3f},{rng.integers(1, 900)},{rng.integers(1, 300)}" for t in at]
        (tmp_path / f"part{k}.csv").write_text(HEADER + "\n".join(rows) + "\n")
    (tmp_path / "dated.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.5,100,10\n"
    )
    return tmp_path


def parts(folder: Path, *numbers: int) -> tuple[Path, ...]:
    return tuple(folder / f"part{k}.csv" for k in numbers)


def test_several_files_count_as_the_one_that_holds_all(folder: Path) -> None:
    texts = [path.read_text().removeprefix(HEADER) for path in parts(folder, 0, 1, 2)]
    (folder / "all.csv").write_text(HEADER + "".join(texts))
    whole = histogram_of_trace(folder / "all.csv")
    assert whole.warnings == ()
    for trace in (parts(folder, 0, 1, 2), parts(folder, 2, 0, 1), folder / "part*.csv"):
        counted = histogram_of_trace(trace)
        assert replace(counted, source=whole.source) == whole
    read = np.concatenate([b.arrival_s for b in blocks_of(folder / "part*.csv")])
    assert len(read) == 1500


def test_seconds_begin_with_the_earliest_request_wherever_it_stands(tmp_path: Path) -> None:
    lines = ["0.75,10,10", "1.5,10,10", "2.5,10,10", "1200.75,10,10"]
    first, last = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(HEADER + "\n".join(lines))
    last.write_text(HEADER + "\n".join(lines[1:] + lines[:1]))
    assert histogram_of_trace(last).rate_profile == histogram_of_trace(first).rate_profile


def test_a_name_tells_of_the_files(folder: Path) -> None:
    assert trace_name(folder / "part1.csv") == "part1.csv"
    assert trace_name(parts(folder, 2, 0)) == "part0.csv and part2.csv"
    assert trace_name(folder / "part*.csv") == "part0.csv and 2 more"
    assert files_of(folder / "part?.csv") == parts(folder, 0, 1, 2)


def test_a_file_may_be_named_like_a_pattern(tmp_path: Path) -> None:
    odd = tmp_path / "log[1].csv"
    odd.write_text(HEADER + "0,1,1\n")
    assert files_of(odd) == (odd,)


def test_files_that_overlap_are_told_of(folder: Path) -> None:
    (folder / "again.csv").write_text((folder / "part0.csv").read_text())
    (warning,) = histogram_of_trace((folder / "part0.csv", folder / "again.csv")).warnings
    assert "again.csv and part0.csv overlap" in warning


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("part9.csv", "spec.yaml:3: workload.trace: no such trace file"),
        ("[part0.csv, part9.csv]", "workload.trace[1]: no such trace file"),
        ("none*.csv", "workload.trace: no trace file fits"),
        ("[part0.csv, part*.csv]", "part0.csv is named twice among the trace's files"),
        ("[]", "workload.trace"),
        ("[part0.csv, 3]", "workload.trace[1]: must be text"),
        ("[part0.csv, dated.csv]", "part0.csv: its times are no dates, but those of"),
    ],
)
def test_what_cannot_be_one_trace_is_told_in_a_line(folder: Path, names: str, told: str) -> None:
    spec = folder / "spec.yaml"
    spec.write_text(
        "name: chat\nmodel: meta-llama/Llama-3.1-8B-Instruct\n"
        f"workload: {{trace: {names}}}\nslo: {{tpot_ms: 50, ttft_ms: 1000}}\n"
    )
    with pytest.raises(InputError) as raised:
        load_spec(spec)
    assert told in raised.value.problems[0]


def test_a_histogram_of_long_requests_is_read_back(tmp_path: Path) -> None:
    """Requests longer than 100,000 tokens were written, but refused in a spec."""
    trace, histogram = tmp_path / "long.csv", tmp_path / "long.yaml"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,150000,100\n9,200,120000\n")
    histogram.write_text(count_trace(trace).yaml)
    coverage = load_distribution(histogram).coverage
    assert coverage is not None
    assert (coverage.longest_input_tokens, coverage.longest_output_tokens) == (150000, 120000)
