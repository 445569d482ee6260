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

    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.profiles import ReplicaCapacity


def with_known_rates(planned: Plan, progress: Callable[[int, int], None] | None = None) -> Plan:
    """Return a plan with simulated rates where its candidates have only bounds (`Origin.BOUND`).

    What was simulated once is kept. `progress` is called with (done, total) sizes of one model.
    """
    models = tuple(_known(model, planned.confidence, progress) for model in planned.models)
    return replace(planned, models=models)


def _known(
    model: ModelPlan, confidence: float, progress: Callable[[int, int], None] | None
) -> ModelPlan:
    form = model.forms[0] if model.forms else None
    shape = form.shape if form else model.model_shape
    if shape is None or not any(candidate.has_bounds for candidate in model.candidates):
        return model
    generation = model.engine_generation or engine_named(model.engine.name).generation
    quantization = form.quantization if form else None
    query = query_of(model, shape, model.engine, generation, quantization)
    look_up = partial(replica_capacities, replace(query, progress=progress))
    return replace(model, candidates=with_known_cells(model.candidates, look_up, confidence))


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
