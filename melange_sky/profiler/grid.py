"""Measure a grid of request sizes on one endpoint, keeping every cell as soon as it is done."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from melange_sky.capacity_search import (
    REAL_SEARCH,
    MeasuredRate,
    NextSize,
    ProbeVerdict,
    SearchOptions,
    SizeDemand,
    choose_size,
    even_demand,
    find_max_rate,
    inferred_rates,
    predicted_rates,
    search_near,
    surely_fails,
)
from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.profiler.endpoint import Endpoint
from melange_sky.profiler.prompts import PromptStyle
from melange_sky.profiler.target import EndpointTarget, OutOfTime, SentProbe
from melange_sky.profiletable import (
    KeptProbe,
    MeasuredCell,
    ProfileTable,
    Provenance,
    read_table,
    write_table,
)
from melange_sky.settings import PROFILE_SUFFIX
from melange_sky.slo import SLO

Size = tuple[int, int]
"""Input and output tokens."""

_WORK_SD = 0.3
_NO_TIME = "budget spent"
_TOO_FAR = "its rate matters little and cannot be inferred from the measured sizes"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridOptions:
    """What to measure and how hard. `budget_s` bounds the whole run; the cell in work is dropped.

    With a `demand` sizes are chosen one after the other from what was measured, until its error bound
    is met; without one every size is measured.
    """

    slo: SLO
    demand: SizeDemand | None = None
    search: SearchOptions = REAL_SEARCH
    style: PromptStyle = field(default_factory=PromptStyle)
    arrivals_s: tuple[float, ...] = ()
    late_s: float = 0.025
    budget_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GridReport:
    """How a run over a grid ended.

    `unmeasured` sizes were left for the reason that they come with, `inferred` ones because the others
    say enough of them; `expected_error` is what is left of the cost's error (None without a demand).
    """

    table: ProfileTable
    path: Path
    measured: tuple[Size, ...]
    kept: tuple[Size, ...]
    unmeasured: Mapping[Size, str]
    inferred: Mapping[Size, float] = field(default_factory=dict)
    expected_error: float | None = None


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
    return folder / f"{slug}--{hashlib.sha256(identity).hexdigest()[:8]}{PROFILE_SUFFIX}"


def identity_of(provenance: Provenance) -> dict[str, object]:
    """Return what must be equal for two measurements to be of the same thing."""
    incidental = {"gpu_name", "gpu_driver", "cloud", "region", "instance_type", "created_at"}
    incidental.add("weight_bytes")  # counted, not measured: model, revision and flags decide
    if provenance.is_poisson:
        incidental.add("arrivals")  # tables from before there was a choice keep their names
    if provenance.reuse is None:
        incidental.add("reuse")
    return {key: value for key, value in asdict(provenance).items() if key not in incidental}


def measure_grid(
    endpoint: Endpoint,
    sizes: Iterable[Size],
    provenance: Provenance,
    folder: Path,
    options: GridOptions,
    progress: Progress | None = None,
) -> GridReport:
    """Measure what the table in `folder` does not answer yet: every size, or those of the demand.

    The table is written after every cell, so that a run that was killed goes on where it stopped.
    An endpoint that fails ends the run with its error, which then says what is kept. Sizes that this
    client was too late for are left out; SourceUnavailableError where nothing else was measured.
    """
    path = table_path(folder, provenance)
    table = _open_table(path, provenance)
    write_table(table, path)  # an unwritable folder shows before any load
    wanted = tuple(dict.fromkeys(sizes))
    run = _GridRun(
        endpoint=endpoint,
        options=options,
        progress=progress or Progress(),
        deadline_s=None if options.budget_s is None else time.monotonic() + options.budget_s,
        path=path,
        table=table,
        wanted=wanted,
        kept=tuple(size for size in wanted if is_answered(table, size, options)),
    )
    return run.report(run.measure())


@dataclass(slots=True, kw_only=True)
class _GridRun:
    """One run over a grid, with what became of its sizes so far. `void`: size → why it is left out."""

    endpoint: Endpoint
    options: GridOptions
    progress: Progress
    deadline_s: float | None
    path: Path
    table: ProfileTable
    wanted: tuple[Size, ...]
    kept: tuple[Size, ...]
    measured: list[Size] = field(default_factory=list)
    void: dict[Size, str] = field(default_factory=dict)

    def measure(self) -> NextSize:
        """Measure size after size; return the last choice, with a size only where time ran out."""
        while True:
            choice = next_choice(self.table, self.wanted, self.options, self.void)
            if choice.size is None:
                return choice
            if self.progress.on_cell is not None:
                done = len(self.kept) + len(self.measured) + len(self.void)
                self.progress.on_cell(choice.size, done, len(self.wanted))
            try:
                cell = _measure_cell(self._cell(choice.size, choice), self.table)
            except OutOfTime:
                return choice
            except MelangeError as error:
                raise type(error)(
                    f"{error}; {len(self.table.cells)} measured sizes are kept in {self.path}"
                ) from error
            if isinstance(cell, str):
                self.void[choice.size] = cell
            else:
                self._keep(choice.size, cell)

    def _cell(self, size: Size, choice: NextSize) -> _Cell:
        options = self.options
        search = search_near(options.search, choice)
        target = EndpointTarget(
            endpoint=self.endpoint,
            input_tokens=size[0],
            output_tokens=size[1],
            style=options.style,
            arrivals_s=options.arrivals_s,
            late_s=options.late_s,
            deadline_s=self.deadline_s,
            stop=surely_fails(options.slo, search),
            on_probe=self.progress.on_probe,
        )
        return _Cell(target=target, slo=options.slo, search=search)

    def _keep(self, size: Size, cell: MeasuredCell) -> None:
        """Write the cell to the table."""
        others = (c for c in self.table.cells if (c.input_tokens, c.output_tokens) != size)
        write_table(replace(self.table, cells=(*others, cell)), self.path)
        # Read back as a resumed run would: its choices are then the same to the last digit.
        self.table = read_table(self.path)
        self.measured.append(size)
        if self.progress.on_done is not None:
            self.progress.on_done(cell)

    def report(self, last: NextSize) -> GridReport:
        """Return how the run ended; SourceUnavailableError where nothing at all was measured."""
        if self.void and not (self.measured or self.kept):
            size, why = next(iter(self.void.items()))
            raise SourceUnavailableError(
                f"input {size[0]}, output {size[1]}: {why}; nothing is measured"
            )
        settled = {*self.kept, *self.measured, *self.void}
        left = tuple(size for size in self.wanted if size not in settled)
        enough = last.size is None
        inferred = _inferred(self.table, left, self.options) if enough else {}
        why = _TOO_FAR if enough else _NO_TIME
        return GridReport(
            table=self.table,
            path=self.path,
            measured=tuple(self.measured),
            kept=self.kept,
            unmeasured=self.void | {size: why for size in left if size not in inferred},
            inferred=inferred,
            expected_error=last.expected_error if self.options.demand is not None else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """One size to measure: the target with the search that suits what is known of it."""

    target: EndpointTarget
    slo: SLO
    search: SearchOptions


def _inferred(table: ProfileTable, left: Sequence[Size], options: GridOptions) -> dict[Size, float]:
    """Return what the measured sizes say of those that the demand leaves unmeasured."""
    if options.demand is None:
        return {}
    known = inferred_rates(options.demand, answers(table, options.demand.sizes, options))
    return {size: known[size] for size in left if size in known}


def answers(
    table: ProfileTable, sizes: Sequence[Size], options: GridOptions
) -> dict[Size, MeasuredRate]:
    """Return what the table says of those sizes that it answers."""
    return {s: measured_of(table, s, options) for s in sizes if is_answered(table, s, options)}


def next_choice(
    table: ProfileTable,
    wanted: Sequence[Size],
    options: GridOptions,
    skipped: Collection[Size] = (),
) -> NextSize:
    """Return what to measure next given a table, none once it says enough or all else is skipped.

    Without a demand that is the next size in order, with a guess from the measured ones.
    """
    demand = options.demand or even_demand(wanted, 1.0)
    answered = answers(table, demand.sizes, options)
    if options.demand is not None:
        return choose_size(options.demand, answered, options.slo, skipped)
    todo = [size for size in wanted if size not in answered and size not in skipped]
    if not todo:
        return NextSize(size=None, guess_rps=None, sd=0.0, expected_error=0.0)
    if not any(found.rate_rps for found in answered.values()):
        return NextSize(size=todo[0], guess_rps=None, sd=0.0, expected_error=1.0)
    guesses = dict(zip(demand.sizes, predicted_rates(demand, answered), strict=True))
    # What is known of no estimate but a request's work is right by a third at best.
    return NextSize(size=todo[0], guess_rps=guesses[todo[0]], sd=_WORK_SD, expected_error=1.0)


def measured_of(table: ProfileTable, size: Size, options: GridOptions) -> MeasuredRate:
    """Return what the table says of a size that it answers."""
    cell = table.cell(*size)
    assert cell is not None
    return cell.known(options.slo, options.search)


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
    return cell is not None and cell.settled(options.slo, options.search) is not None


def _measure_cell(work: _Cell, table: ProfileTable) -> MeasuredCell | str:
    """Return the cell, or why this client could not measure it."""
    began = time.monotonic()
    target, slo = work.target, work.slo
    size = (target.input_tokens, target.output_tokens)
    old = table.cell(*size)
    result = find_max_rate(target, slo, work.search)
    if result.max_rate_rps is None and result.probes[-1].verdict is ProbeVerdict.ABORTED:
        return f"{result.reason}; measure from a less busy machine, or allow more with --max-lateness-ms"
    probes = [
        KeptProbe(
            rate_rps=sent.rate_rps,
            seed=sent.seed,
            verdict=judged.verdict.value,
            reason=judged.reason,
            log=sent.outcome.log,
            lateness_max_s=round(float(sent.outcome.lateness_s.max(initial=0.0)), 6),
            server=sent.outcome.server.summary() if sent.outcome.server else None,
        )
        for sent, judged in zip(target.sent, result.probes, strict=True)
    ]
    return MeasuredCell(
        input_tokens=size[0],
        output_tokens=size[1],
        slo=slo,
        max_rate_rps=result.max_rate_rps,
        reason=result.reason,
        resolved=result.resolved,
        low_rps=result.low_rps,
        high_rps=result.high_rps,
        knee_rps=result.knee_rps,
        seconds=round(time.monotonic() - began, 3),
        measured_at=now_text(),
        probes=(*(old.probes if old else ()), *probes),
    )


def now_text() -> str:
    """Return the time, ISO 8601 UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
