"""Where nothing is committed or owned, instances need not keep to one region: other regions stand in for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.planner.options import option_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.capacities import DeploymentOption, OptionCapacity
    from melange_sky.planner.options import PlannedOffer
    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.planner.reserving.material import Mix
    from melange_sky.reserve.answer import Advice


def relaxed(asked: Asked, advice: Advice, offers: Sequence[PlannedOffer]) -> Asked:
    """Return what was asked with the options that are only rented as a plan would have them.

    `offers` are those of a plan: the cheapest region of an instance type with the others as its fallbacks.
    """
    question = asked.question
    taken = {
        k
        for one, bought in zip(asked.purchasable, advice.bought, strict=True)
        if bought.units
        for k in one.rates
    }
    taken |= {k for k in range(len(question.options)) if (question.owned_units()[:, k] > 0).any()}
    renamed: dict[str, DeploymentOption] = {}
    for k, name in enumerate(question.options):
        option = asked.candidate(k).option
        planned = next((p for p in offers if p.offer == option.offer and not p.pinned), None)
        if k in taken or planned is None or option.engine is None:
            continue
        fresh = option_name(planned, option.engine.split, option.form)
        renamed[name] = replace(option, name=fresh, fallbacks=planned.fallbacks)
    names = tuple(renamed[n].name if n in renamed else n for n in question.options)
    return replace(
        asked,
        mixes=tuple(_of_mix(mix, renamed) for mix in asked.mixes),
        question=replace(question, options=names),
    )


def _of_mix(mix: Mix, renamed: dict[str, DeploymentOption]) -> Mix:
    def changed(candidate: OptionCapacity) -> OptionCapacity:
        option = renamed.get(candidate.option.name)
        return candidate if option is None else replace(candidate, option=option)

    (demand,) = mix.problem.demands
    options = tuple(changed(candidate) for candidate in demand.options)
    return replace(mix, problem=replace(mix.problem, demands=(replace(demand, options=options),)))
