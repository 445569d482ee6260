"""Where nothing is committed or owned, instances need not keep to one region: other regions stand in for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.planner.options import option_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.capacities import DeploymentOption
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
    taken |= {k for purchase in question.shared for k in purchase.draws}
    renamed: dict[str, DeploymentOption] = {}
    for k, name in enumerate(question.options):
        option = asked.candidate(k).option
        planned = next(
            (
                p
                for p in offers
                if (p.offer, p.use_spot) == (option.offer, option.use_spot) and not p.pinned
            ),
            None,
        )
        if k in taken or planned is None or option.engine is None:
            continue
        own = option_name(planned, option.engine.split, option.form)
        renamed[name] = replace(option, name=own, fallbacks=planned.fallbacks)
    fresh: dict[str, str] = {}
    mixes = tuple(_of_mix(mix, renamed) for mix in asked.mixes)
    for old, new in zip(asked.mixes, mixes, strict=True):
        fresh |= dict(zip(old.keys, new.keys, strict=True))
    names = tuple(fresh[name] for name in question.options)
    return replace(asked, mixes=mixes, question=replace(question, options=names))


def _of_mix(mix: Mix, renamed: dict[str, DeploymentOption]) -> Mix:
    names = {key: name for name, key in mix.keys.items()}
    demands = tuple(
        replace(
            demand,
            options=tuple(
                replace(one, option=renamed.get(names[demand.name, one.option.name], one.option))
                for one in demand.options
            ),
        )
        for demand in mix.problem.demands
    )
    return replace(mix, problem=replace(mix.problem, demands=demands))
