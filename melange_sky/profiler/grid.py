"""Measure a grid of request sizes on one endpoint, keeping every cell as soon as it is done."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from melange_sky.capacity_search import REAL_SEARCH, SearchOptions, find_max_rate
from melange_sky.errors import InputError, MelangeError
from melange_sky.profiler.endpoint import Endpoint
from melange_sky.profiler.prompts import PromptStyle
from melange_sky.profiler.target import EndpointTarget, OutOfTime, SentProbe
from melange_sky.profiletable import (
    SUFFIX,
    KeptProbe,
    MeasuredCell,
    ProfileTable,
    Provenance,
    read_table,
    write_table,
)
from melange_sky.slo import SLO

Size = tuple[int, int]
"""Input and output tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions:
    """What to measure and how hard. `budget_s` bounds the whole run; the cell in work is dropped."""

    slo: SLO
    search: SearchOptions = REAL_SEARCH
    style: PromptStyle = field(default_factory=PromptStyle)
    late_s: float = 0.025
    budget_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GridReport:
    """How a run over a grid ended: `unmeasured` sizes were left because the budget was spent."""

    table: ProfileTable
    path: Path
    measured: tuple[Size, ...]
    kept: tuple[Size, ...]
    unmeasured: tuple[Size, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Callbacks: before a cell, after each probe, after a cell. All optional."""

    on_cell: Callable[[Size, int, int], None] | None = None
    on_probe: Callable[[SentProbe], None] | None = None
    on_done: Callable[[MeasuredCell], None] | None = None


def table_path(folder: Path, provenance: Provenance) -> Path:
    """Return the file of a table: readable, and different wherever a rate may differ."""
    identity = repr(identity_of(provenance)).encode()
    words = f"{provenance.model}--{provenance.accelerator}-{provenance.accelerator_count}"
    slug = re.sub(r"[^A-Za-z0-9._-]+", "_", words).strip("._")[:120]
    return folder / f"{slug}--{hashlib.sha256(identity).hexdigest()[:8]}{SUFFIX}"


def identity_of(provenance: Provenance) -> dict[str, object]:
    """Return what must be equal for two measurements to be of the same thing."""
    told = {"gpu_name", "gpu_driver", "cloud", "region", "instance_type", "created_at"}
    return {key: value for key, value in asdict(provenance).items() if key not in told}


def measure_grid(
    endpoint: Endpoint,
    sizes: Iterable[Size],
    provenance: Provenance,
    folder: Path,
    options: GridOptions,
    progress: Progress | None = None,
) -> GridReport:
    """Measure every size that the table in `folder` does not answer yet.

    The table is written after every cell, so that a run that was killed goes on where it stopped.
    An endpoint that fails ends the run with its error, which then says what is kept.
    """
    progress = progress or Progress()
    path = table_path(folder, provenance)
    table = _open_table(path, provenance)
    write_table(table, path)  # an unwritable folder is told before any load
    deadline_s = None if options.budget_s is None else time.monotonic() + options.budget_s
    wanted = list(dict.fromkeys(sizes))
    kept = tuple(size for size in wanted if is_answered(table, size, options))
    todo = [size for size in wanted if size not in set(kept)]
    measured: list[Size] = []
    for index, size in enumerate(todo):
        if progress.on_cell is not None:
            progress.on_cell(size, len(kept) + index, len(wanted))
        target = EndpointTarget(
            endpoint=endpoint, input_tokens=size[0], output_tokens=size[1], style=options.style,
            late_s=options.late_s, deadline_s=deadline_s, on_probe=progress.on_probe,
        )  # fmt: skip
        try:
            cell = _measure_cell(target, options, table)
        except OutOfTime:
            break
        except MelangeError as error:
            raise type(error)(
                f"{error}; {len(table.cells)} measured sizes are kept in {path}"
            ) from error
        others = tuple(c for c in table.cells if (c.input_tokens, c.output_tokens) != size)
        table = replace(table, cells=(*others, cell), path=path)
        write_table(table, path)
        measured.append(size)
        if progress.on_done is not None:
            progress.on_done(cell)
    return GridReport(
        table=table, path=path, measured=tuple(measured), kept=kept,
        unmeasured=tuple(todo[len(measured) :]),
    )  # fmt: skip


def _open_table(path: Path, provenance: Provenance) -> ProfileTable:
    if not path.exists():
        return ProfileTable(provenance=replace(provenance, created_at=now_text()), path=path)
    table = read_table(path)
    if identity_of(table.provenance) != identity_of(provenance):
        raise InputError(f"{path}: holds measurements of something else; give another -o")
    return table


def is_answered(table: ProfileTable, size: Size, options: GridOptions) -> bool:
    """Return whether the table already answers this SLO at this size: such a cell is kept."""
    cell = table.cell(*size)
    if cell is None:
        return False
    return cell.slo == options.slo or cell.answer(options.slo, options.search).resolved


def _measure_cell(
    target: EndpointTarget, options: GridOptions, table: ProfileTable
) -> MeasuredCell:
    began = time.monotonic()
    size = (target.input_tokens, target.output_tokens)
    old = table.cell(*size)
    search = replace(options.search, start_rps=first_guess(table.cells, size, options))
    result = find_max_rate(target, options.slo, search)
    probes = [
        KeptProbe(
            rate_rps=sent.rate_rps, seed=sent.seed, verdict=judged.verdict.value,
            reason=judged.reason, log=sent.outcome.log,
            lateness_max_s=round(float(sent.outcome.lateness_s.max(initial=0.0)), 6),
            server=sent.outcome.server.summary() if sent.outcome.server else None,
        )
        for sent, judged in zip(target.sent, result.probes, strict=True)
    ]  # fmt: skip
    return MeasuredCell(
        input_tokens=size[0], output_tokens=size[1], slo=options.slo,
        max_rate_rps=result.max_rate_rps, reason=result.reason, resolved=result.resolved,
        low_rps=result.low_rps, high_rps=result.high_rps, knee_rps=result.knee_rps,
        seconds=round(time.monotonic() - began, 3), measured_at=now_text(),
        probes=(*(old.probes if old else ()), *probes),
    )  # fmt: skip


def first_guess(cells: Sequence[MeasuredCell], size: Size, options: GridOptions) -> float | None:
    """Guess a first rate from the nearest measured cell, scaled by the work of a request.

    A prompt token counts a tenth of an output token: prefill is that much cheaper on GPUs. None
    where nothing was measured: the search then begins with a saturating burst.
    """
    known = [(c, c.answer(options.slo, options.search).max_rate_rps) for c in cells]
    rates = [(c, rate) for c, rate in known if rate is not None]
    if not rates:
        return None
    work = _work(size)
    near, rate = min(
        rates, key=lambda pair: abs(_work((pair[0].input_tokens, pair[0].output_tokens)) - work)
    )
    guess = rate * _work((near.input_tokens, near.output_tokens)) / work
    return min(guess, options.search.ceiling_rps)


def _work(size: Size) -> float:
    return size[0] / 10 + size[1]


def now_text() -> str:
    """Return the time, ISO 8601 UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
