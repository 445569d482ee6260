"""A trace that a flag names for replay, with how it is to be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.workload import TraceFiles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from melange_sky.workload import Trace


def replayed_trace(
    trace: Path | None,
    flag: str,
    columns: str | Mapping[str, str] | None,
    timezone: str | None,
    *,
    keep_failed: bool,
) -> Trace | None:
    """Return the trace that `flag` names, to be read as `workload` reads one; None for none.

    Raises InputError as `read_options` does, and where there is no trace to read so.
    """
    given = {"--columns": columns, "--timezone": timezone, "--keep-failed": keep_failed}
    said = [name for name, value in given.items() if value]
    if not said:
        return trace
    if trace is None:
        raise InputError(f"{said[0]} says how {flag} is read: name the trace with {flag}")
    from melange_sky.traces.options import read_options  # only where a trace is named

    options = read_options(columns, timezone, keep_failed=keep_failed)
    return TraceFiles(files=(trace,), options=options)
