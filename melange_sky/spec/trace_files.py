"""A trace in several files: the requests of all of them, as if they stood in one.

Which file is named first, and how the requests lie in them, changes nothing: they are taken by time.
"""

from __future__ import annotations

import glob
import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.rates import RateCounter
from melange_sky.spec.grid import FINE_EDGES, INPUT_LEVELS, OUTPUT_LEVELS, fitting_edges
from melange_sky.spec.histogram import Histogram, HistogramBuilder
from melange_sky.spec.traces import has_wall_clock, trace_blocks

if TYPE_CHECKING:
    from melange_sky.spec.block_parsing import TraceBlock
    from melange_sky.workload import Trace

log = logging.getLogger(__name__)

_Span = tuple[float, float, Path]
"""First and last time of a file."""

MOST_NAMED = 2
"""Files that a trace's name lists."""


def files_of(trace: Trace) -> tuple[Path, ...]:
    """Return a trace's files, each once; a name with `*`, `?` or `[` that is no file is a pattern.

    Raises InputError for a pattern that no file fits, and for a file that is named twice.
    """
    files: list[Path] = []
    for path in (trace,) if isinstance(trace, Path) else trace:
        files += _fitting(path)
    for path in files:
        if files.count(path) > 1:
            raise InputError(f"{path} is named twice among the trace's files")
    return tuple(files)


def is_pattern(path: Path) -> bool:
    """Return whether a path is no file's name but a pattern of names."""
    if not glob.has_magic(path.name):
        return False
    try:
        return not path.exists()
    except OSError:  # a name that no file can have
        return False


def _fitting(path: Path) -> list[Path]:
    if not is_pattern(path):
        return [path]
    found = sorted(path.parent.glob(path.name))
    if not found:
        raise InputError(f"no trace file fits {path}")
    return found


def trace_name(trace: Trace) -> str:
    """Return what a trace is called: its files' names, of many the first."""
    names = sorted(path.name for path in files_of(trace))
    if len(names) <= MOST_NAMED:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} more"


def blocks_of(trace: Trace) -> Iterator[TraceBlock]:
    """Yield the requests of a trace, file by file; raises as `trace_blocks` does.

    InputError too where some files' times are dates and others' are not.
    """
    files = files_of(trace)
    for path in files:
        yield from trace_blocks(path)
    _same_clock(files)


def _same_clock(files: tuple[Path, ...]) -> bool:
    """Return whether the times of readable files are dates; InputError where only some are."""
    first = has_wall_clock(files[0])
    for path in files[1:]:
        if has_wall_clock(path) != first:
            dated, other = (files[0], path) if first else (path, files[0])
            raise InputError(
                f"{other}: its times are no dates, but those of {dated} are: one trace has one clock"
            )
    return first


def histogram_of_trace(
    trace: Trace,
    input_edges: tuple[int, ...] | None = None,
    output_edges: tuple[int, ...] | None = None,
) -> Histogram:
    """Count a trace on a grid in one pass, in two where its requests do not begin with the earliest;
    edges None are chosen to fit its requests.

    Raises InputError for an unreadable or empty trace.
    """
    builder = HistogramBuilder(
        input_edges=input_edges or FINE_EDGES, output_edges=output_edges or FINE_EDGES
    )
    files = files_of(trace)
    spans = [span for path in files if (span := _counted(builder, path)) is not None]
    name = trace_name(trace)
    if not builder.requests:
        raise InputError(f"{files[0] if len(files) == 1 else name}: the trace holds no request")
    is_wall_clock = _same_clock(files)
    if builder.rates.anchor_s != builder.rates.first_s:
        builder.rates = _rates_from(builder.rates.first_s, files)
    if builder.empty_outputs:
        log.warning("%s: %d requests have no output token", name, builder.empty_outputs)
    log.info("%s: %d requests, %s req/s", name, builder.requests, builder.rate_rps)
    builder = builder.on(
        input_edges or fitting_edges(builder.inputs, INPUT_LEVELS),
        output_edges or fitting_edges(builder.outputs, OUTPUT_LEVELS),
    )
    counted = builder.histogram(f"trace {name}", is_wall_clock=is_wall_clock)
    return replace(counted, warnings=_overlaps(spans))


def _counted(builder: HistogramBuilder, path: Path) -> _Span | None:
    """Count one file; return its first and its last time, None of no request."""
    low, high = math.inf, -math.inf
    for block in trace_blocks(path):
        builder.add_all(block.arrival_s, block.input_tokens, block.output_tokens)
        low = min(low, float(block.arrival_s.min(initial=math.inf)))
        high = max(high, float(block.arrival_s.max(initial=-math.inf)))
    return (low, high, path) if low <= high else None


def _rates_from(first_s: float, files: tuple[Path, ...]) -> RateCounter:
    """Return the arrivals counted by seconds that begin with the earliest one."""
    counter = RateCounter(anchor_s=first_s)
    for path in files:
        for block in trace_blocks(path):
            counter.add_all(block.arrival_s)
    return counter


def _overlaps(spans: list[_Span]) -> tuple[str, ...]:
    """Return a word on files whose times overlap: what each began at zero by itself is not one stream."""
    for (_, high, one), (low, _, other) in itertools.pairwise(sorted(spans)):
        if low < high:
            text = (
                f"the times of {one.name} and {other.name} overlap: their requests are taken to have come "
                "side by side; where each file counts from its own zero, give its times a common one"
            )
            return (text,)
    return ()
