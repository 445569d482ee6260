"""From the `workload:` section to a workload: shipped distribution, histogram or trace."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.resources import catalogs_dir
from melange_sky.spec import yaml_source
from melange_sky.spec.edges import edges_problem
from melange_sky.spec.histogram import Histogram, to_workload
from melange_sky.spec.problems import Place, Problems
from melange_sky.spec.reuse import FROM_FILE, NONE, read_reuse
from melange_sky.spec.schema import MOST_RPS, HistogramSection, WorkloadFile, WorkloadSection
from melange_sky.workload import (
    AS_FOUND,
    Arrivals,
    Coverage,
    Images,
    RateRule,
    Trace,
    TraceFiles,
    TraceOptions,
    Workload,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.reuse import Reuse

WEIGHT_TOLERANCE = 0.001

_SOURCES = "distribution, trace, histogram and input_tokens with output_tokens"
_NAMED_SOURCES = ("distribution", "trace", "histogram")
_OF_A_TRACE = ("grid", "columns", "timezone", "keep_failed")

Grid = tuple["tuple[int, ...] | None", "tuple[int, ...] | None"]
"""Edges of input and output buckets that were given."""


def shipped_distributions() -> dict[str, Path]:
    """Return the shipped distributions by name."""
    folder = catalogs_dir() / "distributions"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_distribution(path: Path) -> Histogram:
    """Read a distribution file; raises InputError with every problem."""
    document = yaml_source.parse(yaml_source.read_text(path), path)
    problems = Problems(path, document)
    file = problems.section(WorkloadFile, document.value, ())
    problems.raise_if_any()
    if file is None or file.workload.histogram is None:
        raise InputError(f"{path}: has no workload.histogram")
    histogram = _inline(
        file.workload.histogram, Place(problems, ("workload", "histogram")), file.workload.rate_rps
    )
    raw = file.workload.reuse
    reuse = None if raw in (None, NONE) else read_reuse(raw, Place(problems, ("workload", "reuse")))
    problems.raise_if_any()
    assert histogram is not None
    return replace(histogram, reuse=reuse)


def read_workload(
    section: WorkloadSection, given: set[str], folder: Path, place: Place
) -> Workload | None:
    """Return the workload of a section, or None with its problems noted.

    `given` names the keys that the user wrote, sound or not; `folder` is what paths are seen from.
    """
    sources: list[str] = [key for key in _NAMED_SOURCES if key in given]
    averages = [key for key in ("input_tokens", "output_tokens") if key in given]
    if len(averages) == 1:
        other = "output_tokens" if averages == ["input_tokens"] else "input_tokens"
        place.add(f"{other} is missing: averages are of both sides")
    sources += averages[:1]
    if len(sources) != 1:
        text = f"only one of {_SOURCES} can be given, not {' and '.join(sources)}"
        place.add(text if sources else f"one of {_SOURCES} is missing")
    for key in _OF_A_TRACE:
        if key in given and "trace" not in given:
            (place / key).add("applies to a trace, which is not given")
    grid = _grid(section, place / "grid")
    if "rate_rps" not in given and "trace" not in given:
        place.add("rate_rps is missing")
    options = _trace_options(section, place)
    is_sound = _check_rate_keys(section, given, place) and len(sources) == 1
    if not is_sound or grid is None or options is None or len(averages) == 1:
        return None
    files = _trace_files(section.trace, folder, place / "trace")
    is_sound = files is not None and bool(files) == ("trace" in given)
    trace = TraceFiles(files=files or (), options=options)
    histogram = _histogram(section, grid, (folder, trace), place) if is_sound else None
    if files is None or histogram is None:
        return None
    found = _rate(section, given, histogram, place)
    if found is None:
        return None
    rule, rate_rps = found
    images = None if section.images is None else Images(**asdict(section.images))
    reuse = _reuse(section, histogram, files, place / "reuse")
    workload = replace(to_workload(histogram, rate_rps), images=images, reuse=reuse)
    if section.trace is None and section.burstiness is None:
        return workload
    is_own = section.trace is not None and "rate_rps" not in given
    arrivals = Arrivals(
        mean_rps=histogram.rate_rps or rate_rps if is_own else rate_rps,
        rule=rule,
        trace=_plain(trace) if is_own else None,
        profile=histogram.rate_profile if is_own else None,
        burstiness=1.0 if section.burstiness is None else section.burstiness,
    )
    return replace(workload, arrivals=arrivals)


def _reuse(
    section: WorkloadSection, histogram: Histogram, files: tuple[Path, ...], place: Place
) -> Reuse | None:
    """Return what prompts share, None where nothing is to be counted on or with the problem noted."""
    if section.reuse in (None, NONE):
        return None
    if isinstance(section.reuse, dict):
        return read_reuse(section.reuse, place)
    if section.reuse != FROM_FILE:
        place.add(f"must be {NONE}, {FROM_FILE} or a mapping such as `melange-sky workload` writes")
        return None
    found = histogram.reuse
    if files:
        from melange_sky.spec.trace_reuse import reuse_of_trace

        try:
            found = reuse_of_trace(files)
        except InputError as error:
            for message in error.problems:
                place.problems.foreign(message)
            return None
    if found is None:
        place.add(
            "neither sessions nor block ids (hash_ids) are told there; state session_turns, think_time_s and "
            f"shared_prefix_tokens, or write {NONE}"
        )
    return found


def _check_rate_keys(section: WorkloadSection, given: set[str], place: Place) -> bool:
    """Note what is wrong with the keys that say at which rate to plan; return whether all is well."""
    good = True
    if "rate" in given:
        if "trace" not in given:
            (place / "rate").add("needs a trace; without one give rate_rps")
            good = False
        if "rate_rps" in given:
            (place / "rate").add("cannot be combined with rate_rps; give one of them")
            good = False
        if not _is_rate(section.rate):
            (place / "rate").add(
                f"must be mean, p95, peak or a number of req/s above 0 and at most {MOST_RPS:g}"
            )
            good = False
    if "burstiness" in given and "trace" in given and "rate_rps" not in given:
        (place / "burstiness").add("is read from the trace; give it only without a trace")
        good = False
    return good


def _is_rate(value: object) -> bool:
    if isinstance(value, str):
        return value in (RateRule.MEAN.value, RateRule.P95.value, RateRule.PEAK.value)
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MOST_RPS


def _rate(
    section: WorkloadSection, given: set[str], histogram: Histogram, place: Place
) -> tuple[RateRule, float] | None:
    """Return by which rule the workload is planned and its rate; None with the problem noted.

    Where planning has yet to find the rate that holds over a trace, it is that of the busiest window.
    """
    if "rate_rps" in given:
        if section.rate_rps is None:
            return None
        bursty = section.burstiness is not None and section.burstiness != 1.0
        return (RateRule.HOLDS if bursty else RateRule.GIVEN), section.rate_rps
    if not isinstance(section.rate, str) and section.rate is not None:
        return RateRule.GIVEN, float(section.rate)
    profile = histogram.rate_profile
    if profile is None or histogram.rate_rps is None:
        place.add("rate_rps is missing: the trace spans no time to take it from")
        return None
    rule = RateRule.HOLDS if section.rate is None else RateRule(section.rate)
    rate_rps = {
        RateRule.MEAN: histogram.rate_rps,
        RateRule.P95: profile.quantile_rps(0.95),
    }.get(rule, profile.peak_rps)
    if rate_rps > MOST_RPS:
        place.add(f"rate_rps is missing: the trace's own {rate_rps:.3g} req/s is implausible")
        return None
    return rule, rate_rps


def _grid(section: WorkloadSection, place: Place) -> Grid | None:
    """Return the user's edges, None where left to the trace; None in all where one is wrong."""
    given = section.grid
    inputs = None if given is None else given.input_edges
    outputs = None if given is None else given.output_edges
    good = inputs is None or _check_edges(inputs, place / "input_edges")
    good &= outputs is None or _check_edges(outputs, place / "output_edges")
    if not good:
        return None
    return (
        None if inputs is None else tuple(inputs),
        None if outputs is None else tuple(outputs),
    )


def _check_edges(edges: Sequence[int], place: Place) -> bool:
    wrong = edges_problem(edges)
    if wrong is not None:
        place.add(wrong)
    return wrong is None


def _histogram(
    section: WorkloadSection,
    grid: Grid,
    sources: tuple[Path, TraceFiles],
    place: Place,
) -> Histogram | None:
    """Return the histogram of a section; `sources` are the folder of paths, and the trace."""
    if section.input_tokens is not None:
        from melange_sky.spec.averages import histogram_of_averages, read_sizes

        sizes = [
            read_sizes(getattr(section, key), place / key)
            for key in ("input_tokens", "output_tokens")
        ]
        inputs, outputs = sizes
        return None if inputs is None or outputs is None else histogram_of_averages(inputs, outputs)
    if section.histogram is not None:
        return _inline(section.histogram, place / "histogram", None)
    folder, trace = sources
    try:
        if section.distribution is not None:
            return _named(section.distribution, folder, place / "distribution")
        from melange_sky.spec.trace_files import histogram_of_trace  # few specs have a trace

        return histogram_of_trace(trace, *grid)
    except InputError as error:
        for message in error.problems:
            place.problems.foreign(message)
        return None


def _trace_files(
    names: Sequence[str] | None, folder: Path, place: Place
) -> tuple[Path, ...] | None:
    """Return the files of a trace, none for none; None with the problem noted where some are not there."""
    if names is None:
        return ()
    if not names:
        place.add("names no file")
    from melange_sky.spec.trace_files import files_of, is_pattern  # few specs have a trace

    good = bool(names)
    for k, name in enumerate(names):
        where = place if len(names) == 1 else place / k
        good &= is_pattern(folder / name) or _is_there(folder / name, "trace", where)
    if not good:
        return None
    try:
        return files_of(tuple(folder / name for name in names))
    except InputError as error:
        place.add(str(error))
        return None


def _trace_options(section: WorkloadSection, place: Place) -> TraceOptions | None:
    """Return how the trace is to be read; None with the problem noted."""
    columns = section.columns
    if columns is not None and not _is_text_by_text(columns):
        (place / "columns").add(
            "must map roles to columns' names, such as {time: startTime, input: prompt_tokens}"
        )
        return None
    if columns is None and section.timezone is None:
        return TraceOptions(keep_failed=section.keep_failed)
    from melange_sky.traces.options import read_options  # few specs have a trace

    try:
        return read_options(columns, section.timezone, keep_failed=section.keep_failed)
    except InputError as error:
        key, _, what = str(error).partition(": ")
        (place / key).add(what)
        return None


def _is_text_by_text(value: object) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def _plain(trace: TraceFiles) -> Trace:
    """Return a trace that is read by evidence alone as its file, or its files."""
    if trace.options != AS_FOUND:
        return trace
    return trace.files[0] if len(trace.files) == 1 else trace.files


def _is_there(path: Path, what: str, place: Place) -> bool:
    """Return whether a path leads anywhere; where not, that is the spec's mistake and noted.

    What is wrong inside the file is reported with the file's own lines.
    """
    try:
        if path.exists():  # False too for a name that no file can have
            return True
        text = f"no such {what} file"
    except OSError as error:  # a name too long, a folder that is closed
        text = f"{error.strerror}: {what} file"
    place.add(f"{text} '{clip(str(path))}'")
    return False


def _named(name: str, folder: Path, place: Place) -> Histogram | None:
    shipped = shipped_distributions()
    if name in shipped:
        return load_distribution(shipped[name])
    if name.endswith((".yaml", ".yml")):
        path = folder / name
        return load_distribution(path) if _is_there(path, "distribution", place) else None
    hint = did_you_mean(name, shipped) or f"; shipped: {', '.join(shipped)}"
    place.add(f"unknown distribution '{clip(name)}'{hint}")
    return None


def _inline(section: HistogramSection, place: Place, rate_rps: float | None) -> Histogram | None:
    edges = (section.input_edges, section.output_edges)
    good = _check_edges(edges[0], place / "input_edges")
    good &= _check_edges(edges[1], place / "output_edges")
    shape = len(edges[0]) - 1, len(edges[1]) - 1
    for key in ("weights", "input_sizes", "output_sizes"):
        rows = getattr(section, key)
        if rows is not None:
            good &= _check_shape(rows, shape, place / key)
    if not good:
        return None
    total = math.fsum(map(math.fsum, section.weights))
    if total == 0:
        (place / "weights").add("the histogram is empty: no weight is above 0")
        return None
    if abs(total - 1) > WEIGHT_TOLERANCE:
        percent = "; are they percent? divide by 100" if abs(total - 100) < 1 else ""
        (place / "weights").add(
            f"must sum to 1 ± {WEIGHT_TOLERANCE}, but sum to {total:.6g}{percent}"
        )
        return None
    sizes = (section.input_sizes, section.output_sizes)
    good = all(
        _check_sizes(known, edges[axis], axis, place / key)
        for axis, (known, key) in enumerate(
            zip(sizes, ("input_sizes", "output_sizes"), strict=True)
        )
    )
    coverage = section.coverage
    return (
        Histogram(
            input_edges=tuple(edges[0]),
            output_edges=tuple(edges[1]),
            weights=tuple(map(tuple, section.weights)),
            input_sizes=_frozen(sizes[0]),
            output_sizes=_frozen(sizes[1]),
            coverage=Coverage(**asdict(coverage)) if coverage is not None else None,
            source=section.source or "inline histogram",
            rate_rps=rate_rps,
        )
        if good
        else None
    )


def _frozen(rows: list[list[float | None]] | None) -> tuple[tuple[float | None, ...], ...] | None:
    return None if rows is None else tuple(tuple(v or None for v in row) for row in rows)


def _check_shape(rows: Sequence[Sequence[object]], shape: tuple[int, int], place: Place) -> bool:
    if len(rows) != shape[0]:
        place.add(f"must have {shape[0]} rows, one per input bucket, but has {len(rows)}")
        return False
    good = True
    for i, row in enumerate(rows):
        if len(row) != shape[1]:
            (place / i).add(
                f"must have {shape[1]} numbers, one per output bucket, but has {len(row)}"
            )
            good = False
    return good


def _check_sizes(
    rows: list[list[float | None]] | None,
    edges: Sequence[int],
    axis: int,
    place: Place,
) -> bool:
    """A mean lies in its own bucket; only in the last one may it lie beyond."""
    good = True
    for i, row in enumerate(rows or []):
        for j, mean in enumerate(row):
            k = (i, j)[axis]
            high = math.inf if k == len(edges) - 2 else edges[k + 1]
            if mean and not edges[k] <= mean <= high:
                (place / i / j).add(f"lies outside its bucket {edges[k]}-{edges[k + 1]}")
                good = False
    return good
