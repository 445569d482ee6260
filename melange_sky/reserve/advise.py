"""What to commit and what to rent: the whole advice on one question."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from melange_sky.optimizer.deadline import NEVER, Deadline, TimeUpError
from melange_sky.reserve.answer import Advice, Bought, ScenarioCost, Totals
from melange_sky.reserve.known import Known
from melange_sky.reserve.market import Market
from melange_sky.reserve.objective import Measure
from melange_sky.reserve.question import Objective, Question, Scenario
from melange_sky.reserve.rivals import best_alone, peak_held, perfect_autoscaler
from melange_sky.reserve.running import Running, covered, run_beside, used_fractions
from melange_sky.reserve.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

T = TypeVar("T")

_SAME = 1e-8
"""A gap of no more is the solvers' rounding."""

_OF_SEARCH = 0.85
"""The part of the time that the search may take; the rest is for what stands beside its answer."""

_LEAST_BESIDE_S = 1.0
"""At least so long may be worked on that."""


def advise(
    question: Question,
    *,
    deadline: Deadline = NEVER,
    progress: Callable[[float, float], None] = lambda _cost, _bound: None,
) -> Advice:
    """Return what to buy, with the fleets beside it and a proof or a gap.

    `progress` is told the least cost found and what is proven below it. With one scenario its cost is what is made
    least, whatever the objective. Purchases are chosen at the cost of free
    switching; start-up and minimum run times are in all costs that are told, and in the gap.

    What stands beside the advice and is not worked out by the deadline is None, and named. Raises InfeasibleError
    where no fleet serves some period, TimeUpError where time ends before any answer.
    """
    if len(question.scenarios) == 1:
        question = replace(question, objective=Objective())
    return _Adviser(question, deadline, progress).advice()


@dataclass(slots=True)
class _Adviser:
    """One question's searches, which share what is known of fleets."""

    question: Question
    deadline: Deadline
    progress: Callable[[float, float], None]
    known: Known = field(init=False)
    late: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with no fleet."""
        self.known = Known(self.question.mixes)

    def advice(self) -> Advice:
        """Return the whole advice."""
        question = self.question
        scenarios = range(len(question.scenarios))
        count = len(scenarios)
        alone = [self._alone(s, count - s) for s in scenarios] if count > 1 else []
        best = np.array([cost for cost, _ in alone]) if alone else np.zeros(1)
        search = self._search(question, best, self.deadline.share(_OF_SEARCH))
        found = search.best([units for _, units in alone])
        self.deadline = self.deadline.at_least(_LEAST_BESIDE_S)
        self._until(self.deadline)
        units, nothing = found.units, search.market.root.low
        runs = [run_beside(search, units, s) for s in scenarios]
        idle = [run_beside(search, nothing, s) for s in scenarios]
        knowing = [run_beside(search, alone[s][1], s) for s in scenarios] if alone else runs
        costs = np.array([run.cost_usd for run in runs])
        value = search.measure.of(costs)
        whole = max(abs(value), float(search.market.weights @ costs))
        gap = max(0.0, value - found.bound) / whole if whole > 0 else 0.0
        advice = Advice(
            bought=self._bought(search, units, runs),
            fleets=runs[0].fleets,
            covered=covered(search, units, runs[0]),
            totals=self._totals(search, units, runs[0], idle[0]),
            scenarios=tuple(
                ScenarioCost(
                    name=scenario.name,
                    weight=float(search.market.weights[s]),
                    cost_usd=runs[s].cost_usd,
                    nothing_usd=idle[s].cost_usd,
                    best_usd=min(knowing[s].cost_usd, runs[s].cost_usd, idle[s].cost_usd),
                )
                for s, scenario in enumerate(question.scenarios)
            ),
            objective_usd=value,
            bound_objective_usd=min(value, found.bound),
            gap=gap if gap > _SAME else 0.0,
            stochastic_value_usd=self._stochastic_value(search, value) if alone else None,
            foresight_value_usd=max(
                0.0, float(search.market.weights @ (costs - [run.cost_usd for run in knowing]))
            ),
            flip_fraction=_flip(search, units, costs, [run.cost_usd for run in idle]),
        )
        self._until(NEVER)  # what is asked of the fleets found is known
        return replace(advice, late=tuple(self.late))

    def _in_time(self, name: str, work: Callable[[], T]) -> T | None:
        """Return what some work comes to, None and its name among what is late where the time is up."""
        try:
            return work()
        except TimeUpError:
            self.late.append(name)
            return None

    def _until(self, deadline: Deadline) -> None:
        for mix in self.question.mixes:
            mix.until(deadline)

    def _search(self, question: Question, best: Floats, deadline: Deadline) -> Search:
        self._until(deadline)
        market = Market(question)
        measure = Measure(objective=question.objective, weights=market.weights, best=best)
        return Search(
            market=market,
            known=self.known,
            measure=measure,
            within=question.within,
            deadline=deadline,
            progress=self.progress,
        )

    def _alone(self, s: int, left: int) -> tuple[float, Floats]:
        """Return the best cost of one scenario, of so many left, and its purchase in the whole question's places."""
        only = replace(
            self.question, scenarios=(self.question.scenarios[s],), objective=Objective()
        )
        search = self._search(only, np.zeros(1), self.deadline.of_one(left + 1))
        found = search.best([])
        return found.value, self._placed(search, found.units)

    def _placed(self, search: Search, units: Floats) -> Floats:
        """Return units of another search's purchases in the places of those of the whole question."""
        everything = np.zeros(len(self.question.purchases) + len(self.question.shared))
        everything[search.market.kept] = units
        return everything[Market(self.question).kept]

    def _stochastic_value(self, search: Search, value: float) -> float | None:
        """Return what the measure comes to with the best purchase for the mean scenario, above the chosen.

        None where the time is up.
        """
        question, weights = self.question, search.market.weights
        rates = sum(w * s.rate_rps for w, s in zip(weights, question.scenarios, strict=True))
        rents = sum(w * s.rents[s.price] for w, s in zip(weights, question.scenarios, strict=True))
        rows, price = np.unique(np.array(rents), axis=0, return_inverse=True)
        mean = Scenario(name="mean", rate_rps=np.array(rates), rents=rows, price=price.reshape(-1))
        only = replace(question, scenarios=(mean,), objective=Objective())
        other = self._search(only, np.zeros(1), self.deadline)
        try:
            units = self._placed(other, other.best([]).units)
        except TimeUpError:
            self.late.append(
                "what planning for all scenarios saves against planning for their mean"
            )
            return None
        finally:
            self._until(self.deadline)
        costs = [run_beside(search, units, s).cost_usd for s in range(len(question.scenarios))]
        return max(0.0, search.measure.of(np.array(costs)) - value)

    def _bought(self, search: Search, units: Floats, runs: list[Running]) -> tuple[Bought, ...]:
        """Return every purchase of the question with its units."""
        question, base = self.question, self.question.scenarios[0]
        counts = dict(zip(search.market.kept, units.tolist(), strict=True))
        fractions = self._in_time(
            "how far commitments are used", lambda: used_fractions(search, units, runs).tolist()
        )
        used = dict(zip(search.market.kept, fractions or (), strict=fractions is not None))
        rents = base.rents[base.price]
        bought = []
        for k, purchase in enumerate(question.purchases):
            options, draws = list(purchase.draws), np.array(list(purchase.draws.values()))
            worth = (rents[:, options] / draws).max(axis=1)[question.active(purchase)].sum()
            count = int(counts.get(k, 0))
            bought.append(
                Bought(
                    name=purchase.name,
                    units=count,
                    usd=count * purchase.usd,
                    upfront_usd=count * purchase.upfront_usd,
                    break_even_fraction=float(purchase.usd / (worth * question.hours_each)),
                    used_fraction=used.get(k) if count else None,
                )
            )
        return tuple(bought)

    def _totals(self, search: Search, units: Floats, run: Running, idle: Running) -> Totals:
        """Return what stands beside the base case's cost."""
        base = replace(self.question, scenarios=self.question.scenarios[:1], objective=Objective())
        bound = self._in_time("the perfect autoscaler", lambda: perfect_autoscaler(self.question))
        peak = self._in_time("the peak committed", lambda: peak_held(self.question))
        single = self._in_time(
            "the best single type",
            lambda: best_alone(self._search(base, np.zeros(1), self.deadline)),
        )
        return Totals(
            chosen_usd=run.cost_usd,
            all_on_demand_usd=idle.cost_usd,
            commit_peak_usd=peak,
            best_single_usd=None if single is None else single[0],
            best_single=None if single is None else single[1],
            bound_usd=bound,
            free_switch_usd=float(search.settled(units)[0]),
        )


def _flip(search: Search, units: Floats, costs: Floats, idle: list[float]) -> float | None:
    """Return the fall of all on-demand prices at which buying nothing costs no more, by the scenarios' weights.

    Rents fall with the prices while what is bought stays paid, and no fleet's place among others changes: paid =
    (1 − fall) × (rent saved).
    """
    paid = float(search.market.usd @ units)
    if paid <= 0:
        return None
    saved = float(search.market.weights @ (np.array(idle) - costs)) + paid
    return 1.0 - paid / saved
