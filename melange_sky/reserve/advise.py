"""What to commit and what to rent: the whole advice on one question."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.optimizer.deadline import NEVER, Deadline
from melange_sky.reserve.answer import Advice, Bought, ScenarioCost, Totals
from melange_sky.reserve.hours import Hours
from melange_sky.reserve.master import Prices
from melange_sky.reserve.purchase import Offered, Search

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.reserve.question import Question


def advise(
    question: Question,
    *,
    deadline: Deadline = NEVER,
    progress: Callable[[float, float], None] = lambda _cost, _bound: None,
) -> Advice:
    """Return what to buy, with the fleets beside it and a proof or a gap.

    `progress` is told the least cost found and what is proven below it.

    Raises InfeasibleError where no fleet serves some period, TimeUpError where time ends before any answer.
    """
    base = question.scenarios[0]
    hours = Hours(
        mix=question.mix,
        rate_rps=base.rate_rps,
        weight=np.full(question.periods, question.hours_each),
        price=base.price,
    )
    span = question.hours_each * question.periods
    count = len(question.options)
    commit, most = np.full(count, np.inf), np.zeros(count)
    by_option: dict[int, int] = {}
    for k, purchase in enumerate(question.purchases):
        ((option, _),) = purchase.draws.items()
        if purchase.usd / span < commit[option]:
            commit[option], most[option] = purchase.usd / span, purchase.most
            by_option[option] = k
    commit = np.where(np.isfinite(commit), commit, base.rents.max(axis=0))
    owned = question.owned_units().min(axis=0)
    search = Search(
        mixes=question.mixes,
        hours=hours,
        prices=Prices(rent=base.rents, commit=commit, hours=span),
        offered=Offered(owned=owned, most=owned + most),
        deadline=deadline,
        progress=progress,
    )
    nothing = search._exact(owned)
    found = search.best(question.within)
    paid = span * float(commit @ owned)
    cost = found.cost_usd - paid
    units = np.zeros(len(question.purchases), dtype=int)
    for option, k in by_option.items():
        units[k] = int(found.held[option] - owned[option])
    covered = np.minimum(found.fleets, found.held)
    return Advice(
        bought=tuple(
            Bought(
                name=p.name,
                units=int(units[k]),
                usd=float(units[k] * p.usd),
                upfront_usd=float(units[k] * p.upfront_usd),
                break_even_fraction=p.usd / (span * float(base.rents[0, next(iter(p.draws))])),
                used_fraction=None,
            )
            for k, p in enumerate(question.purchases)
        ),
        fleets=found.fleets,
        covered=covered,
        totals=Totals(
            chosen_usd=cost,
            all_on_demand_usd=nothing - paid,
            commit_peak_usd=nothing - paid,
            best_single_usd=None,
            best_single=None,
            bound_usd=cost * (1 - found.gap),
            free_switch_usd=cost,
        ),
        scenarios=(
            ScenarioCost(
                name=base.name,
                weight=base.weight,
                cost_usd=cost,
                nothing_usd=nothing - paid,
                best_usd=cost,
            ),
        ),
        objective_usd=cost,
        bound_objective_usd=cost * (1 - found.gap),
        gap=found.gap,
        stochastic_value_usd=None,
        foresight_value_usd=0.0,
        flip_fraction=None,
    )
