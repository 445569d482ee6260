"""The user's own profile tables: which speak of a replica, and what they say over its estimates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.capacities import CapacityCell, Origin
from melange_sky.engines import DEFAULT_ENGINE, ENGINES
from melange_sky.settings import PROFILE_SUFFIX, profiles_dir
from melange_sky.steps import RequestSizes, capacity_estimate

if TYPE_CHECKING:
    from melange_sky.capacity_search import RatioPoint, SearchResult
    from melange_sky.engines import Engine
    from melange_sky.models import ModelShape
    from melange_sky.profiles.query import CapacityQuery, ReplicaShape
    from melange_sky.profiletable import MeasuredCell, ProfileTable, Provenance
    from melange_sky.reuse import Reuse
    from melange_sky.steps import ReplicaModel

_SURE = 1.645
SAME_WEIGHTS = 0.05
"""Weights are the same ones within this fraction of their bytes: they are counted, not weighed."""


def measured_tables(folder: Path | None = None) -> tuple[ProfileTable, ...]:
    """Return the tables of `<home>/profiles`, none (and nothing imported) where there are none."""
    folder = profiles_dir() if folder is None else folder
    if not folder.is_dir() or not any(folder.glob("*" + PROFILE_SUFFIX)):
        return ()
    stamps = tuple(sorted((p, p.stat().st_mtime_ns) for p in folder.glob("*" + PROFILE_SUFFIX)))
    return _load(folder, stamps)


@lru_cache(maxsize=4)
def _load(folder: Path, stamps: tuple[tuple[Path, int], ...]) -> tuple[ProfileTable, ...]:
    from melange_sky.profiletable import load_tables

    return load_tables(folder)


def matching(
    tables: Sequence[ProfileTable], query: CapacityQuery, shape: ReplicaShape
) -> list[MeasuredCell]:
    """Return the cells of this model on this replica under Poisson arrivals, the later of two."""
    found: dict[tuple[int, int], MeasuredCell] = {}
    for table in tables:
        made = table.provenance
        if (
            is_of(made, query.model.name, shape)
            and is_usable(made, query.engine, query.engine_args)
            and has_weights(made, query.model)
            and has_like_reuse(made, query.reuse)
        ):
            for cell in table.cells:
                key = (cell.input_tokens, cell.output_tokens)
                if key not in found or cell.measured_at >= found[key].measured_at:
                    found[key] = cell
    return list(found.values())


def table_notes(query: CapacityQuery, shapes: Iterable[ReplicaShape]) -> tuple[str, ...]:
    """Return a sentence for each kind of table of these replicas that is left out, or only used with care."""
    if not query.measured:
        return ()
    wanted, notes = list(shapes), set()
    for table in measured_tables():
        made = table.provenance
        if not any(is_of(made, query.model.name, shape) for shape in wanted):
            continue
        what = f"of {query.model.name} on {made.accelerator}:{made.accelerator_count}"
        if not made.is_poisson:
            notes.add(
                f"profile tables {what} measured with the arrivals of a trace ({made.arrivals[:120]}) are "
                "left out: planning assumes Poisson arrivals"
            )
        elif made.engine not in (None, query.engine.name):
            notes.add(
                f"profile tables {what} measured with {_title(made)} are left out: the plan serves with "
                f"{query.engine.title}"
            )
        elif not is_usable(made, query.engine, query.engine_args):
            flags = (
                " ".join(query.engine.form(made.engine_flags))
                or "no flags that change the weights' form"
            )
            notes.add(
                f"profile tables {what} measured with {flags[:120]} are left out: the model is planned in "
                "another form (engine.args of the spec and --engine-flags of the profile differ)"
            )
        elif not has_weights(made, query.model):
            notes.add(
                f"profile tables {what} measured with {(made.weight_bytes or 0) / 1e9:.3g} GB of weights are left "
                f"out: the model is planned with {query.model.weight_bytes / 1e9:.3g} GB"
            )
        elif not has_like_reuse(made, query.reuse):
            notes.add(
                f"profile tables {what} measured with --reuse ({made.reuse}) are left out: the prompts of "
                "workload.reuse share " + ("nothing" if query.reuse is None else "otherwise")
            )
        elif made.prefix_share:
            notes.add(
                f"measured capacities {what} are of prompts that share {made.prefix_share:.0%} of their "
                "tokens: they hold only for traffic that does so too"
            )
    return tuple(sorted(notes))


def is_of(made: Provenance, model: str, shape: ReplicaShape) -> bool:
    """Return whether a table is of this model on such a replica."""
    splits = (
        (made.tensor_parallel, shape.tensor_parallel),
        (made.data_parallel, shape.data_parallel),
    )
    # tables that say nothing of the other two ways are from before plans knew them
    others = (made.pipeline_parallel or 1, bool(made.expert_parallel), 1)
    return (
        _is_same(made.model.casefold(), model.casefold())
        and made.accelerator.casefold() == shape.accelerator.casefold()
        and made.accelerator_count == shape.gpus
        and all(given in (None, wanted) for given, wanted in splits)
        and others == (shape.pipeline_parallel, shape.expert_parallel, shape.nodes)
    )


def _is_same(first: str, second: str) -> bool:
    """Return whether two names mean one checkpoint; the organisation may be left out of one."""
    if "/" in first and "/" in second:
        return first == second
    return first.rpartition("/")[2] == second.rpartition("/")[2]


def is_usable(made: Provenance, engine: Engine, engine_args: Sequence[str]) -> bool:
    """Return whether plans with this engine and these arguments may rest on a table.

    It was measured under Poisson arrivals, with weights and KV cache held in the same form. A table
    that names no engine counts as one of the plan's own.
    """
    return (
        made.is_poisson
        and made.engine in (None, engine.name)
        and engine.form(made.engine_flags) == engine.form(engine_args)
    )


def has_weights(made: Provenance, model: ModelShape | None) -> bool:
    """Return whether a table is of weights as large as the model's, as far as both are known."""
    if made.weight_bytes is None or model is None:
        return True
    return abs(made.weight_bytes / model.weight_bytes - 1) <= SAME_WEIGHTS


def has_like_reuse(made: Provenance, reuse: Reuse | None) -> bool:
    """Return whether a table's prompts shared as much, as soon, as those that are planned; or nothing at all."""
    if made.reuse is None:
        return True
    if reuse is None:
        return False
    from melange_sky.profiletable import MeasuredReuse

    return made.reuse.is_like(MeasuredReuse.of(reuse))


def _title(made: Provenance) -> str:
    known = ENGINES.get(made.engine or DEFAULT_ENGINE.name)
    return str(made.engine)[:40] if known is None else known.title


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRates:
    """Measured cells of one replica, and what they say of other sizes.

    The replica runs `data_parallel` tensor-parallel groups like `group`. `points` hold measured ÷ analytic rates, both of the whole replica; `unservable` the sizes that
    were measured to meet the SLO at no rate.
    """

    query: CapacityQuery
    group: ReplicaModel
    data_parallel: int
    cells: dict[tuple[int, int], MeasuredCell]
    points: tuple[RatioPoint, ...]
    unservable: tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls,
        cells: Sequence[MeasuredCell],
        query: CapacityQuery,
        group: ReplicaModel,
        data_parallel: int,
    ) -> MeasuredRates:
        """Take in the cells of a replica of so many tensor-parallel groups."""
        from melange_sky.capacity_search import RatioPoint

        by_size = {(c.input_tokens, c.output_tokens): c for c in cells}
        guesses = _analytic_rates(query, group, data_parallel, list(by_size))
        points, unservable = [], []
        for (size, cell), guess in zip(by_size.items(), guesses, strict=True):
            if cell.settled(query.slo) is None:
                continue
            rate = cell.known(query.slo)
            if rate.rate_rps is None:
                unservable.append(size)
            elif guess > 0:
                ratio = math.log(rate.rate_rps / guess)
                points.append(RatioPoint(size=size, log_ratio=ratio, sd=rate.sd))
        return cls(
            query=query,
            group=group,
            data_parallel=data_parallel,
            cells=by_size,
            points=tuple(points),
            unservable=tuple(unservable),
        )

    def over(self, estimate: CapacityCell, size: tuple[float, float]) -> CapacityCell:
        """Return the cell of a size: as measured, inferred from sizes near it, or else its estimate.

        Inferred: the analytic rate times the ratio that the measured sizes show, where that ratio is
        known well enough and no smaller size was measured unservable.
        """
        from melange_sky.capacity_search import FARTHEST_SD, ratio_surface, reaches_any

        exact = self.cells.get((round(size[0]), round(size[1])))
        if exact is not None and (result := exact.settled(self.query.slo)) is not None:
            return _measured_cell(result)
        if not self.points or reaches_any(size, self.unservable) or estimate.max_rate_rps is None:
            return estimate
        (guess,) = _analytic_rates(self.query, self.group, self.data_parallel, [size])
        surface = ratio_surface(self.points, [size])
        sd = float(surface.sd[0])
        if guess <= 0 or sd > FARTHEST_SD:
            return estimate
        rate = guess * math.exp(float(surface.mean[0]))
        return CapacityCell(
            max_rate_rps=rate,
            origin=Origin.INTERPOLATED,
            low_rps=rate * math.exp(-_SURE * sd),
            high_rps=rate * math.exp(_SURE * sd),
        )


def _analytic_rates(
    query: CapacityQuery,
    group: ReplicaModel,
    data_parallel: int,
    sizes: Sequence[tuple[float, float]],
) -> list[float]:
    """Return the closed-form estimates of a replica of so many groups, one per size."""
    inputs, outputs = np.asarray(sizes, dtype=np.float64).reshape(-1, 2).T
    load = RequestSizes(input_tokens=inputs, output_tokens=outputs)
    rates: list[float] = (
        data_parallel * capacity_estimate(group, load, query.slo).rate_rps
    ).tolist()
    return rates


def _measured_cell(result: SearchResult) -> CapacityCell:
    if result.max_rate_rps is None:
        reason = f"measured: {result.reason}"
        return CapacityCell(max_rate_rps=None, origin=Origin.MEASURED, reason=reason)
    return CapacityCell(
        max_rate_rps=result.max_rate_rps,
        origin=Origin.MEASURED,
        low_rps=result.low_rps or result.max_rate_rps,
        high_rps=result.high_rps or result.max_rate_rps,
    )
