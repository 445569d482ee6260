"""A quantization that nobody asked for and that would pay: found by a quick look, then computed.

The quick look scales capacities (`profiles.outlook`) and says which GPUs would serve. Those few are
computed as a plan would, so that the cost that is told is one that a plan can have. A plan that rests on
shipped tables alone simulates nothing for it either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, InputError, NoPlanInTimeError
from melange_sky.optimizer import optimize
from melange_sky.planner.form_notes import CODE, cost_alone
from melange_sky.plans import PlanWarning
from melange_sky.profiles import ReplicaShape, replica_capacities
from melange_sky.profiles.estimate import GroupKey, group_key
from melange_sky.profiles.outlook import outlook, scaled_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.capacities import OptionCapacity
    from melange_sky.optimizer import Demand, Problem, Solution, SolveOptions
    from melange_sky.planner.prepare import PreparedProblem
    from melange_sky.profiles import CapacityQuery

PROPOSED = "fp8"
"""The quantization that is proposed: of those that engines make while loading, the one that loses least."""

WORTH_FRACTION = 0.05
"""A smaller gain is not worth a word."""

MOST_MODELS, MOST_OPTIONS, LEAST_SECONDS = 3, 600, 10.0
"""With more than these, or with less time for solving, nothing is looked for."""

ROUNDS, MOST_GROUPS, LOOK_SECONDS = 3, 4, 2.0
"""How often the fleet may change while it is computed, how many groups of GPUs, and the time of one solve."""


@dataclass(frozen=True, slots=True)
class _Proposed:
    """A demand with every option in the proposed form besides; of these, `exact` groups are computed."""

    demand: Demand
    query: CapacityQuery | None
    others: tuple[OptionCapacity, ...] = ()
    exact: frozenset[GroupKey] = frozenset()

    @property
    def everything(self) -> Demand:
        return replace(self.demand, options=(*self.demand.options, *self.others))

    @property
    def computed(self) -> Demand:
        """The demand with those options alone that are computed."""
        known = tuple(c for c in self.others if _group(c) in self.exact)
        return replace(self.demand, options=(*self.demand.options, *known))

    def open_groups(self, chosen: Sequence[OptionCapacity]) -> list[GroupKey]:
        """Return the groups of some options that are not computed in the proposed form yet."""
        used = {_group(c) for c in chosen} & {_group(c) for c in self.others}
        return sorted(used - self.exact)

    def computing(self, groups: Sequence[GroupKey]) -> _Proposed:
        """Return the same with the capacities of more groups as a plan would have them."""
        assert self.query is not None
        shapes = {c.option.name: ReplicaShape.of(c.option) for c in self.others}
        wanted = [s for s in dict.fromkeys(shapes.values()) if group_key(s) in groups]
        found = {r.shape: r for r in replica_capacities(self.query, wanted)}
        others = tuple(
            replace(
                c,
                cells=found[shapes[c.option.name]].cells,
                option=replace(c.option, engine=found[shapes[c.option.name]].settings),
            )
            if shapes[c.option.name] in found
            else c
            for c in self.others
        )
        return replace(self, others=others, exact=self.exact | set(groups))


def _group(capacity: OptionCapacity) -> GroupKey:
    return group_key(ReplicaShape.of(capacity.option))


def proposal(
    prepared: PreparedProblem, solution: Solution, solve: SolveOptions
) -> tuple[PlanWarning, ...]:
    """Say that 8-bit weights would pay, where the spec leaves quantization open and they would."""
    problem = prepared.problem
    options = sum(len(demand.options) for demand in problem.demands)
    if len(problem.demands) > MOST_MODELS or options > MOST_OPTIONS:
        return ()
    if solve.time_limit_s < LEAST_SECONDS:
        return ()
    proposed = [
        _proposed(demand, query if len(forms) == 1 else None)
        for demand, forms, query in zip(
            problem.demands, prepared.forms, prepared.queries, strict=True
        )
    ]
    if not any(p.others for p in proposed):
        return ()
    look = replace(cost_alone(solve), mip_gap=1e-3, time_limit_s=LOOK_SECONDS)
    cost = _cost(problem, proposed, solution, look)
    if cost is None or cost > (1 - WORTH_FRACTION) * solution.cost_usd_per_hour:
        return ()
    text = (
        f"engine.quantization: [none, {PROPOSED}] would plan ${cost:,.2f}/h or less instead of "
        f"${solution.cost_usd_per_hour:,.2f}/h: the engine makes the weights smaller while it loads them; "
        "check first that the answers stay good enough"
    )
    return (PlanWarning(code=CODE, message=text),)


def _proposed(demand: Demand, query: CapacityQuery | None) -> _Proposed:
    """Return the demand with its options in the proposed form, by a quick look; none where it cannot be."""
    if query is None or PROPOSED not in query.engine.weights.online or not query.model.is_plain:
        return _Proposed(demand, None)
    flag = query.engine.flags.quantization
    try:
        smaller = query.engine.held(query.model, (flag, PROPOSED))
    except InputError:
        return _Proposed(demand, None)
    seen = outlook(query, smaller, [ReplicaShape.of(c.option) for c in demand.options])
    changed = replace(
        query,
        model=smaller,
        engine_args=(*query.engine_args, flag, PROPOSED),
        simulate=not seen.shipped,
        progress=None,
    )
    others = tuple(
        replace(
            capacity,
            option=replace(
                capacity.option, name=f"{capacity.option.name}-{PROPOSED}", form=PROPOSED
            ),
            cells=scaled_cells(capacity, seen.factors[_group(capacity)]),
        )
        for capacity in demand.options
        if _group(capacity) in seen.factors
    )
    return _Proposed(demand, changed, others)


def _used(solution: Solution) -> tuple[list[OptionCapacity], ...]:
    return tuple([a.candidate for a in chosen] for chosen in solution.allocations)


def _cost(
    problem: Problem, proposed: list[_Proposed], solution: Solution, look: SolveOptions
) -> float | None:
    """Return what the cheapest fleet of computed options costs, None where it would not pay.

    The fleet of the quick look, and the GPUs of the plan itself, are computed and a fleet is chosen
    again until all of it is computed.
    """
    left, most = MOST_GROUPS, (1 - WORTH_FRACTION) * solution.cost_usd_per_hour
    for _ in range(ROUNDS):
        fleet = _fleet(replace(problem, demands=tuple(p.everything for p in proposed)), look)
        if fleet is None or fleet.cost_usd_per_hour > most:
            return None
        unknown = [
            p.open_groups([*(c for c in used if c.option.form == PROPOSED), *now])[:left]
            for p, used, now in zip(proposed, _used(fleet), _used(solution), strict=True)
        ]
        if not any(unknown):
            break
        left -= sum(map(len, unknown))
        proposed = [
            p.computing(groups) if groups else p
            for p, groups in zip(proposed, unknown, strict=True)
        ]
    fleet = _fleet(replace(problem, demands=tuple(p.computed for p in proposed)), look)
    return None if fleet is None else fleet.cost_usd_per_hour


def _fleet(problem: Problem, look: SolveOptions) -> Solution | None:
    try:
        return optimize(problem, look)
    except (InfeasibleError, NoPlanInTimeError):
        return None
