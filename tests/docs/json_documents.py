"""The JSON documents of the program, each with something in every field, and each with what may be null."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from melange_sky.planfile import plan_document
from melange_sky.plans import Plan
from tests.docs.filled import Hollow, filled


def _plans() -> Iterator[dict[str, Any]]:
    for hollow in Hollow:
        for lists_models in (False, True):
            yield plan_document(_with_copies(filled(Plan, hollow, lists_models=lists_models)))


def _with_copies(plan: Plan) -> Plan:
    """Return a plan with one more candidate: two engines like the first one's."""
    (model,) = plan.models
    (one,) = model.candidates
    if one.option.engine is None:
        return plan
    engine = replace(one.option.engine, data_parallel=2)
    cells = tuple(tuple(cell.scaled(2) for cell in row) for row in one.cells)
    two = replace(one, option=replace(one.option, engine=engine), cells=cells)
    return replace(plan, models=(replace(model, candidates=(one, two)),))


DOCUMENTS: dict[str, Callable[[], Iterator[Any]]] = {
    "plan": _plans,
}
"""By the name of the file of its fields in `melange_sky/help/fields/`."""
