"""A trace in several files: the requests of all of them, as if they stood in one.

Which file is named first, and how the requests lie in them, changes nothing: they are taken by time.
"""

from __future__ import annotations

import glob
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.rates import RateCounter
from melange_sky.spec.grid import FINE_EDGES, INPUT_LEVELS, OUTPUT_LEVELS, fitting_edges
from melange_sky.spec.histogram import Histogram
from melange_sky.spec.histogram_builder import HistogramBuilder
from melange_sky.spec.intake import busiest_of, check_span, intake_of
from melange_sky.workload import AS_FOUND, TraceFiles, TraceOptions

if TYPE_CHECKING:
    from melange_sky.spec.intake import Intake
    from melange_sky.traces import TraceBlock, TraceReader
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
    named = trace.files if isinstance(trace, TraceFiles) else trace
    files: list[Path] = []
    for path in (named,) if isinstance(named, Path) else named:
        files += _fitting(path)
    for path in files:
        if files.count(path) > 1:
            raise InputError(f"{path} is named twice among the trace's files")
    return tuple(files)


def options_of(trace: Trace) -> TraceOptions:
    """Return how a trace is to be read."""
    return trace.options if isinstance(trace, TraceFiles) else AS_FOUND


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


def blocks_of(
    trace: Trace, extras: Sequence[str] = (), told: Callable[[Intake], None] | None = None
) -> Iterator[TraceBlock]:
    """Yield the requests of a trace, file by file; raises as `trace_blocks` does.

    `extras`: of ``session`` and ``hash_ids``, what blocks shall hold where the trace has it. `told` gets how it
    was read once it has been. InputError too for a trace without times, and where some files' times are dates
    and others' are not.
    """
    readers = _readers(trace, extras)
    for reader in readers:
        for block in reader.blocks():
            if reader.reading.clock is None:
                raise InputError(
                    f"{reader.path}: holds no times, only sizes: they cannot be replayed"
                )
            yield block
    if told is not None:
        told(intake_of(readers))


def _readers(
    trace: Trace, extras: Sequence[str] = (), *, proves_later: bool = False
) -> list[TraceReader]:
    """Return readers of a trace's files; InputError where only some files have times, or dates."""
    from melange_sky.traces import TraceReader  # only where a spec names a trace

    options = options_of(trace)
    readers = [
        TraceReader(path, options, extras, proves_later=proves_later) for path in files_of(trace)
    ]
    _check_clocks(readers)
    return readers


def _check_clocks(readers: list[TraceReader]) -> None:
    first = readers[0].reading
    for reader in readers[1:]:
        if (reader.reading.clock is None) != (first.clock is None):
            pair = (readers[0], reader) if reader.reading.clock is None else (reader, readers[0])
            raise InputError(
                f"{pair[1].path}: holds no times, but {pair[0].path} does: one trace has one clock"
            )
        if reader.reading.is_wall_clock != first.is_wall_clock:
            pair = (readers[0], reader) if first.is_wall_clock else (reader, readers[0])
            raise InputError(
                f"{pair[1].path}: its times are no dates, but those of {pair[0].path} are: one trace has one clock"
            )


def histogram_of_trace(
    trace: Trace,
    input_edges: tuple[int, ...] | None = None,
    output_edges: tuple[int, ...] | None = None,
) -> Histogram:
    """Count a trace on a grid in one pass, in two where its requests do not begin with the earliest or its unit is unlike its beginning;
    edges None are chosen to fit its requests.

    Raises InputError for an unreadable or empty trace, and for one whose rate or span cannot be.
    """
    edges = (input_edges or FINE_EDGES, output_edges or FINE_EDGES)
    readers = _readers(trace, proves_later=True)
    name = trace_name(trace)
    builder, spans = _all_counted(readers, edges)
    misread = [reader for reader in readers if not reader.prove()]
    if misread:
        builder, spans = _all_counted(readers, edges)
    _check_clocks(readers)
    intake = intake_of(readers)
    if not builder.requests:
        raise InputError(f"{readers[0].path if len(readers) == 1 else name}: {intake.why_empty}")
    has_times = bool(builder.rates.by_second) or builder.rates.is_too_long
    if has_times:
        given = options_of(trace).unit is not None
        check_span(builder.requests, builder.rates, name, intake, unit_is_given=given)
        if builder.rates.anchor_s != builder.rates.first_s:
            builder.rates = _rates_from(builder.rates.first_s, readers)
        intake = replace(intake, **busiest_of(builder.rates))
    log.info("%s: %d requests, %s req/s", name, builder.requests, builder.rate_rps)
    builder = builder.on(
        input_edges or fitting_edges(builder.inputs, INPUT_LEVELS),
        output_edges or fitting_edges(builder.outputs, OUTPUT_LEVELS),
    )
    counted = builder.histogram(
        f"trace {name}", is_wall_clock=intake.is_wall_clock, zone_shift_s=intake.zone_shift_s
    )
    told = tuple(f"{name}: {text}" for text in intake.warnings)
    return replace(counted, warnings=(*told, *_overlaps(spans)), intake=intake)


def _all_counted(
    readers: list[TraceReader], edges: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[HistogramBuilder, list[_Span]]:
    """Count all files on a grid; return the counts and what times the files hold."""
    builder = HistogramBuilder(input_edges=edges[0], output_edges=edges[1])
    spans = [span for reader in readers if (span := _counted(builder, reader)) is not None]
    return builder, spans


def _counted(builder: HistogramBuilder, reader: TraceReader) -> _Span | None:
    """Count one file; return its first and its last time, None of no request."""
    low, high = math.inf, -math.inf
    for block in reader.blocks():
        builder.add_all(block.arrival_s, block.input_tokens, block.output_tokens)
        low = min(low, float(block.arrival_s.min(initial=math.inf)))
        high = max(high, float(block.arrival_s.max(initial=-math.inf)))
    return (low, high, reader.path) if low <= high else None


def _rates_from(first_s: float, readers: list[TraceReader]) -> RateCounter:
    """Return the arrivals counted by seconds that begin with the earliest one."""
    counter = RateCounter(anchor_s=first_s)
    for reader in readers:
        for block in reader.blocks():
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
