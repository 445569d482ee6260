"""A starter spec, and a trace as a spec's workload: what `init` and `workload` do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError
from melange_sky.planner.output_files import write_text
from melange_sky.spec.edges import parse_edges
from melange_sky.spec.histogram import histogram_yaml
from melange_sky.spec.starter import starter_text
from melange_sky.spec.trace_files import files_of, histogram_of_trace
from melange_sky.traces import read_options
from melange_sky.workload import TraceFiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from melange_sky.spec.histogram import Histogram
    from melange_sky.workload import Trace


def write_starter(file: Path, *, force: bool = False) -> None:
    """Write a commented starter spec; InputError where `file` is there and `force` is False."""
    if file.exists() and not force:
        raise InputError(f"{file}: already exists; choose another name or pass --force")
    write_text(file, starter_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceWorkload:
    """A trace's requests on a grid of sizes, with its mean rate; `trace` are its files' names."""

    histogram: Histogram
    trace: str

    @property
    def yaml(self) -> str:
        """The `workload:` section that a spec can use as it stands."""
        return histogram_yaml(self.histogram, f"Derived by: melange-sky workload {self.trace}")

    @property
    def section(self) -> dict[str, Any]:
        """What stands under `workload` in a spec, for one that is a dict."""
        import yaml

        document: dict[str, Any] = yaml.safe_load(self.yaml)["workload"]
        return document


def count_trace(
    trace: Trace,
    *,
    input_edges: str | Sequence[int] | None = None,
    output_edges: str | Sequence[int] | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
) -> TraceWorkload:
    """Count a trace's requests by size, and what they share; edges None for those that fit it.

    `columns` (``time=startTime:ms,input=…``, or a mapping), `timezone` and `keep_failed` say how to read it
    where that is not left to evidence. Raises InputError for a trace that cannot be read and for edges that do not rise.
    """
    files = files_of(trace)
    options = read_options(columns, timezone, keep_failed=keep_failed)
    histogram = histogram_of_trace(
        TraceFiles(files=files, options=options),
        _edges(input_edges, "--input-edges"),
        _edges(output_edges, "--output-edges"),
    )
    told = histogram.intake is not None and bool(histogram.intake.extras)
    if told and histogram.rate_profile is not None:  # what is shared is of no use without times
        from melange_sky.spec.trace_reuse import reuse_of_trace  # which few traces need

        shared = reuse_of_trace(TraceFiles(files=files, options=options))
        histogram = replace(histogram, reuse=shared)
    return TraceWorkload(histogram=histogram, trace=" ".join(file.name for file in files))


def _edges(edges: str | Sequence[int] | None, flag: str) -> tuple[int, ...] | None:
    text = edges if edges is None or isinstance(edges, str) else ",".join(map(str, edges))
    return parse_edges(text, flag)
