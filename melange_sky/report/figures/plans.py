"""The figures of a plan, in the order in which a reader wants them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.report.figures.attained import attained_figure
from melange_sky.report.figures.band import band_figure
from melange_sky.report.figures.load import load_figure
from melange_sky.report.figures.mix import mix_figure
from melange_sky.report.figures.sizes import sizes_figure

if TYPE_CHECKING:
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.report.figures.figure import Figure


def plan_figures(plan: Plan) -> tuple[Figure, ...]:
    """Return all figures of a plan; their names are unique, those of the second model end in ``-2``."""
    figures = [
        replace(
            figure,
            name=figure.name if n == 0 else f"{figure.name}-{n + 1}",
            title=f"{model.name}: {figure.title}" if plan.lists_models else figure.title,
        )
        for n, model in enumerate(plan.models)
        for figure in model_figures(plan, model)
    ]
    band = band_figure(plan)
    return (*figures, *([] if band is None else [band]))


def model_figures(plan: Plan, model: ModelPlan) -> tuple[Figure, ...]:
    """Return the figures of one model: cost, sizes, load and, where it was replayed, what came of it."""
    replayed = attained_figure(model)
    return (
        mix_figure(model),
        sizes_figure(model),
        load_figure(model, plan.headroom),
        *([] if replayed is None else [replayed]),
    )
