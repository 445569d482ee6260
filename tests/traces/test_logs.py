"""Formats × units × zones × encodings × failures, each against the requests that were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from melange_sky.spec.trace_files import histogram_of_trace
from melange_sky.traces import TraceReader, read_options
from melange_sky.workload import AS_FOUND, TraceOptions
from tests.traces.logs import (
    EXACT_TO_S,
    FORMATS,
    SPELLINGS,
    TELL_FAILURES,
    Request,
    some_requests,
    table,
)


def read(
    path: Path, options: TraceOptions = AS_FOUND
) -> tuple[TraceReader, np.ndarray, list[tuple[int, int]]]:
    reader = TraceReader(path, options)
    blocks = list(reader.blocks())
    times = np.concatenate([block.arrival_s for block in blocks])
    sizes = [
        pair
        for b in blocks
        for pair in zip(b.input_tokens.tolist(), b.output_tokens.tolist(), strict=True)
    ]
    return reader, times, sizes


def written(requests: list[Request]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    times = np.array([r.at_us / 1e6 for r in requests])
    return times, [(r.input_tokens, r.output_tokens) for r in requests]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_requests_that_were_written(tmp_path: Path, name: str) -> None:
    requests = some_requests()
    path = tmp_path / "log"
    path.write_bytes(FORMATS[name](requests))
    reader, times, sizes = read(path)
    expected, expected_sizes = written(requests)
    if name == "newest first":
        times, sizes = times[::-1], sizes[::-1]
    assert sizes == expected_sizes
    assert times - times[0] == pytest.approx(expected - expected[0], abs=EXACT_TO_S.get(name, 1e-4))
    assert reader.tally.failed == 0


@pytest.mark.parametrize("name", TELL_FAILURES)
def test_failed_requests_are_counted_and_left_out(tmp_path: Path, name: str) -> None:
    requests = some_requests(fail=0.2)
    path = tmp_path / "log"
    path.write_bytes(FORMATS[name](requests))
    reader, times, sizes = read(path)
    answered = [r for r in requests if r.ok]
    assert sizes == written(answered)[1]
    assert reader.tally.failed == len(requests) - len(answered) > 20
    assert len(times) == len(answered)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_rate_whatever_the_spelling_of_its_instants(tmp_path: Path, spelling: str) -> None:
    requests = some_requests()
    write, zone = SPELLINGS[spelling]
    path = tmp_path / "log.csv"
    path.write_bytes(
        table(
            "time,input_tokens,output_tokens", lambda r: [write(r), r.input_tokens, r.output_tokens]
        )(requests)
    )
    options = read_options(None, zone)
    reader, times, _ = read(path, options)
    exact = 1.0 if "GMT" in spelling else 1e-3
    assert times == pytest.approx([719163 * 86400.0 + r.epoch_s for r in requests], abs=exact)
    assert reader.reading.is_wall_clock
    span_s = (requests[-1].at_us - requests[0].at_us) / 1e6
    rate_rps = (len(requests) - 1) / span_s
    from melange_sky.workload import TraceFiles

    found = histogram_of_trace(TraceFiles(files=(path,), options=options))
    assert found.rate_rps == pytest.approx(rate_rps, rel=1e-3)
