"""What a plan left unsimulated because its own fleet does not rest on it, for questions about other fleets."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.planner.confidence import at_confidence
from melange_sky.planner.prepare import query_of
from melange_sky.profiles import ReplicaShape, replica_capacities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.capacities import Cells, OptionCapacity
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.profiles import CapacityQuery, ReplicaCapacity
    from melange_sky.workload import Workload


def with_known_rates(planned: Plan, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Return a plan with simulated rates where its candidates have only bounds (`Origin.BOUND`).

    What was simulated once is kept. `progress` is called with (done, total) sizes of one model.
    """
    models = tuple(_known(model, planned.confidence, progress) for model in planned.models)
    return replace(planned, models=models)


def with_other_sizes(planned: Plan, workload: Workload) -> Plan:
    """Return a plan of one model for requests of other sizes of the same grid.

    Rates of sizes that had no traffic are simulated; the others stay as they are. Its allocations are those of before.
    """
    (before,) = planned.models
    new = [(i, j) for i, j in workload.buckets() if before.workload.rates_rps[i][j] <= 0]
    model = replace(before, workload=workload)
    query = _query(model)
    if new and query is not None:
        shapes = [ReplicaShape.of(c.option) for c in model.candidates]
        rows = zip(model.candidates, replica_capacities(query, shapes), strict=True)
        looked_up = [_with_new(c, found.cells, new) for c, found in rows]
        by_name = {c.option.name: c for c in at_confidence(looked_up, planned.confidence)}
        model = replace(
            model,
            candidates=tuple(
                _with_new(c, by_name[c.option.name].cells, new) for c in model.candidates
            ),
        )
    return replace(planned, models=(model,))


def _with_new(
    candidate: OptionCapacity, cells: Cells, places: Sequence[tuple[int, int]]
) -> OptionCapacity:
    """Return an option with other cells at some places."""
    rows = [list(row) for row in candidate.cells]
    for i, j in places:
        rows[i][j] = cells[i][j]
    return replace(candidate, cells=tuple(map(tuple, rows)))


def _known(
    model: ModelPlan, confidence: float, progress: Callable[[int, int], None] | None
) -> ModelPlan:
    query = _query(model)
    if query is None or not any(candidate.has_bounds for candidate in model.candidates):
        return model
    look_up = partial(replica_capacities, replace(query, progress=progress))
    return replace(model, candidates=with_known_cells(model.candidates, look_up, confidence))


def _query(model: ModelPlan) -> CapacityQuery | None:
    """Return what is asked of the capacities of a plan's model, None where the plan does not say what it is."""
    form = model.forms[0] if model.forms else None
    shape = form.shape if form else model.model_shape
    if shape is None:
        return None
    generation = model.engine_generation or engine_named(model.engine.name).generation
    quantization = form.quantization if form else None
    return query_of(model, shape, model.engine, generation, quantization)


def with_known_cells(
    options: Sequence[OptionCapacity],
    look_up: Callable[[Sequence[ReplicaShape]], Sequence[ReplicaCapacity]],
    confidence: float,
) -> tuple[OptionCapacity, ...]:
    """Return the options, those that have bounds with what `look_up` knows of their replicas now."""
    bounded = [capacity for capacity in options if capacity.has_bounds]
    found = look_up([ReplicaShape.of(capacity.option) for capacity in bounded])
    known = [replace(c, cells=row.cells) for c, row in zip(bounded, found, strict=True)]
    by_name = {c.option.name: c for c in at_confidence(known, confidence)}
    return tuple(by_name.get(c.option.name, c) for c in options)
