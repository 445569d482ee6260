"""Rates of all buckets on one engine: embedded or simulated estimates, measured cells over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.capacities import CapacityCell, Origin
from melange_sky.profiles.cache import EstimateCache
from melange_sky.profiles.embedded import Found, shipped_table
from melange_sky.profiles.measured import MeasuredRates, analytic_rates
from melange_sky.profiles.reasons import missed_alone

if TYPE_CHECKING:
    from melange_sky.capacities import EngineSettings
    from melange_sky.profiles.query import CapacityQuery
    from melange_sky.profiletable import MeasuredCell
    from melange_sky.steps import ErrorBand, Estimate, Load, ReplicaModel


@dataclass(slots=True)
class Progress:
    """Counts cells for the caller's progress bar."""

    report: Callable[[int, int], None] | None
    total: int
    done: int = 0

    @classmethod
    def start(cls, query: CapacityQuery, engines: int) -> Progress:
        """Return a count over all cells of all engines."""
        cells = sum(len(row) for row in query.input_sizes)
        return cls(report=query.progress, total=cells * engines)

    def step(self, cells: int = 1) -> None:
        """Tell that so many more cells are done."""
        self.done += cells
        if self.report is not None:
            self.report(self.done, self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine that is asked about; `band` is its estimates' error."""

    replica: ReplicaModel
    max_model_len: int
    band: ErrorBand


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAnswer:
    """One engine and its rate per bucket, row by row."""

    engine: Engine
    found: tuple[Found, ...]


def tabled_cells(
    query: CapacityQuery, engine: Engine, load: Load, estimate: Estimate
) -> list[Found | None]:
    """Return the rates of one engine by the shipped table, None for cells that need a simulation."""
    absent = _absent(query, engine, load)
    table = None if query.exact else shipped_table(engine.replica, query.slo)
    if table is None:
        return [(None, reason) if reason else None for reason in absent]
    rates = (table.ratio(load) * estimate.rate_rps).tolist()
    found: list[Found | None] = []
    for at, (reason, rate) in enumerate(zip(absent, rates, strict=True)):
        if reason:
            found.append((None, reason))
        elif math.isnan(rate):
            found.append(table.point(_size(load, at)))
        else:
            found.append((rate, None) if rate > 0 else (None, _slo_reason(query, estimate, at)))
    return found


def simulated_cells(
    query: CapacityQuery,
    engine: Engine,
    load: Load,
    rates: tuple[Estimate, Sequence[Found | None]],
    progress: Progress,
) -> EngineAnswer:
    """Return the rates of one engine, those that are not settled by simulation.

    `rates` are the analytic estimates and what is settled. What earlier simulations found is kept.
    """
    estimate, settled = rates
    cache = EstimateCache(engine.replica, query.slo)
    found: list[Found] = []
    for at, known in enumerate(settled):
        answer = known or cache.get(_size(load, at))
        if answer is None:
            from melange_sky.profiles.simulated import simulated_rate

            guess = float(estimate.rate_rps[at])
            answer = simulated_rate(engine.replica, _size(load, at), query.slo, guess)
            cache.put(_size(load, at), *answer)
        found.append(answer)
        progress.step()
    cache.save()
    return EngineAnswer(engine=engine, found=tuple(found))


def _size(load: Load, at: int) -> tuple[int, int]:
    return int(load.input_tokens[at]), int(load.output_tokens[at])


def _absent(query: CapacityQuery, engine: Engine, load: Load) -> list[str | None]:
    """Why a bucket is not computed at all, None where it is; row by row."""
    totals = (load.input_tokens + load.output_tokens).astype(int).tolist()
    needed = (
        [True] * len(totals) if query.needed is None else [n for row in query.needed for n in row]
    )
    return [
        _too_long(query, engine, total) if wanted else "no traffic"
        for total, wanted in zip(totals, needed, strict=True)
    ]


def _too_long(query: CapacityQuery, engine: Engine, total: int) -> str | None:
    longest = engine.max_model_len
    if total > query.model.context_tokens:
        return f"{total} tokens exceed the model's context of {query.model.context_tokens}"
    if total <= longest:
        return None
    if longest == engine.replica.pool.tokens:
        return f"{total} tokens exceed the {longest} that fit into the KV cache"
    return f"{total} tokens exceed max_model_len {longest}"


def _slo_reason(query: CapacityQuery, estimate: Estimate, at: int) -> str:
    reason = missed_alone(
        float(estimate.ttft_floor_s[at]), float(estimate.tpot_floor_s[at]), query.slo
    )
    return reason or "the SLO is not met at any rate"


def place_cells(
    query: CapacityQuery,
    answer: EngineAnswer,
    settings: EngineSettings,
    own: tuple[int, Sequence[MeasuredCell]],
) -> tuple[tuple[CapacityCell, ...], ...]:
    """Return the cells of a replica of so many engines, measured ones over estimates."""
    copies, measured = own
    own_engine = (answer.engine.replica, copies)
    known = MeasuredRates.of(measured, query, own_engine) if measured else None
    rows, at = [], 0
    for inputs, outputs in zip(query.input_sizes, query.output_sizes, strict=True):
        row = []
        for sizes in zip(inputs, outputs, strict=True):
            cell = _estimated(answer.found[at], copies, answer.engine.band)
            if known and cell.reason != "no traffic" and sum(sizes) <= settings.max_model_len:
                served = cell.max_rate_rps is not None
                guess = analytic_rates(query, own_engine, [sizes])[0] if served else 0.0
                cell = known.cell(sizes, guess) or cell
            row.append(cell)
            at += 1
        rows.append(tuple(row))
    return tuple(rows)


def _estimated(found: Found, copies: int, band: ErrorBand) -> CapacityCell:
    rate, reason = found
    if rate is None:
        return CapacityCell(max_rate_rps=None, reason=reason)
    rate *= copies
    return CapacityCell(
        max_rate_rps=rate,
        origin=Origin.ESTIMATED,
        low_rps=rate * band.low,
        high_rps=rate * band.high,
    )
