"""The certificate: every rule's check lets a right fleet pass and says what is wrong with another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from melange_sky.capacities import OptionCapacity
from melange_sky.optimizer import (
    Constraints,
    InstanceGroup,
    Problem,
    Robustness,
    SolveOptions,
    SpotPolicy,
    StayClose,
    optimize,
)
from melange_sky.optimizer.answers import optimum
from melange_sky.optimizer.rules.base import FinishedFleet, LateShares
from melange_sky.optimizer.rules.registry import RULES, RuleSet
from melange_sky.plans import Allocation
from melange_sky.workload import Matrix
from tests.optimizer.factories import at_most, demand, option, placed

PROBLEM = Problem(
    demands=(
        demand(
            [[3.0, 1.0]],
            placed("h100", 10.0, [[4.0, 2.0]], "aws/us-east-1", accelerator="H100"),
            placed("l4", 2.0, [[1.0, None]], "gcp/us-central1", accelerator="L4", use_spot=True),
        ),
    ),
)
H100, L4 = PROBLEM.demands[0].options


def holding(
    h100: int = 2,
    l4: int = 1,
    on_l4: float = 0.25,
    *,
    fixed: int = 0,
) -> tuple[Allocation, ...]:
    """So many instances of each, with this part of the first bucket on the L4s."""
    rows = [
        (H100, h100, ((1 - on_l4, 1.0),), fixed),
        (L4, l4, ((on_l4, 0.0),), 0),
    ]
    return tuple(
        Allocation(
            candidate=candidate,
            instances=instances,
            load_fraction=0.5,
            rate_rps=1.0,
            shares=shares,
            fixed_instances=paid,
        )
        for candidate, instances, shares, paid in rows
        if instances
    )


def with_best_effort(capacity: OptionCapacity) -> OptionCapacity:
    """The same capacities at every level, and twice that where all are late."""
    cells = tuple(
        tuple(
            replace(
                cell, levels=((0.0, 2 * rate), (0.92, rate)) if (rate := cell.max_rate_rps) else ()
            )
            for cell in row
        )
        for row in capacity.cells
    )
    return replace(capacity, cells=cells)


LATE = replace(
    PROBLEM,
    demands=(
        replace(
            PROBLEM.demands[0],
            options=tuple(map(with_best_effort, PROBLEM.demands[0].options)),
            target=0.78,
            level=0.92,
        ),
    ),
)
"""0.14 ÷ 0.92 of the requests may be late."""


def late(part: float) -> tuple[Allocation, ...]:
    """All on H100s but the L4's quarter of the first bucket; this part of it late there."""
    h100, l4 = holding()
    candidates = LATE.demands[0].options
    return (
        replace(h100, candidate=candidates[0], level=0.92, late=((0.0, ((part, 0.0),)),)),
        replace(l4, candidate=candidates[1], level=0.92),
    )


Proposal = Callable[[int, Mapping[str, int]], Mapping[str, tuple[Matrix, LateShares]] | None]


def all_on_h100(_: int, lost: Mapping[str, int]) -> Mapping[str, tuple[Matrix, LateShares]] | None:
    """One H100 serves both buckets: 3 ÷ 4 + 1 ÷ 2 of it are too much, two are enough."""
    return {"h100": (((1.0, 1.0),), ())}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What asks for a rule, a fleet that keeps to it, fleets that do not, and what is said of them."""

    constraints: Constraints = field(default_factory=Constraints)
    options: SolveOptions = field(default_factory=SolveOptions)
    right: tuple[Allocation, ...] = holding()
    wrong: tuple[tuple[tuple[Allocation, ...], str], ...] = ()
    goal: float = 22.0
    after_loss: Proposal = all_on_h100
    problem: Problem = PROBLEM


CASES: dict[str, Case] = {
    "serve": Case(
        wrong=(
            (holding(on_l4=0.25)[:1], "bucket (0, 0) is served 0.750000000 times, not 1.0"),
            (
                (holding()[0], replace(holding()[1], shares=((0.5, 0.0),))),
                "bucket (0, 0) is served 1.250000000 times, not 1.0",
            ),
        ),
    ),
    "load": Case(
        wrong=(
            (
                holding(h100=1),
                "option 'h100' carries 1.062500000 where 1.000000000 is room",
            ),
            (
                (holding()[0], replace(holding()[1], shares=((0.25, 0.1),))),
                "option 'l4' cannot serve bucket (0, 1)",
            ),
        ),
    ),
    "attainment": Case(
        problem=LATE,
        right=late(0.2),
        wrong=(
            (
                late(0.3),
                "model 'chat' serves 0.225000000 of its requests late where 0.152173913 may be",
            ),
        ),
    ),
    "limits": Case(
        constraints=Constraints(limits=at_most(("H100", 2), ("gcp", 1))),
        wrong=(
            (holding(h100=3), "3 of 'H100' are used where the limit is 2"),
            (holding(l4=2), "2 of 'gcp' are used where the limit is 1"),
        ),
    ),
    "fixed": Case(
        constraints=Constraints(
            fixed=(
                InstanceGroup(accelerator="H100", instances=1),
                InstanceGroup(accelerator="H100", cloud="aws", instances=1),
            )
        ),
        right=holding(fixed=2),
        wrong=(
            (holding(h100=3, fixed=3), "nothing pays for 1 of 'h100'"),
            (holding(h100=1, on_l4=0.5, fixed=2), "more of 'h100' are paid for than there are"),
            (
                (holding()[0], replace(holding()[1], fixed_instances=1)),
                "nothing pays for 1 of 'l4'",
            ),
        ),
    ),
    "budget": Case(
        constraints=Constraints(budget_usd_per_hour=22.0),
        wrong=((holding(h100=3), "$32.000000/h is billed where the budget is $22/h"),),
    ),
    "minimum": Case(
        constraints=Constraints(minimum=(InstanceGroup(accelerator="L4", instances=2),)),
        right=holding(l4=2),
        wrong=((holding(), "the fleet has 1 instances of the minimum of 2 x L4"),),
    ),
    "min_replicas": Case(
        constraints=Constraints(min_replicas=3),
        wrong=((holding(l4=0, on_l4=0.0), "model 'chat' has 2 replicas where 3 are required"),),
    ),
    "region_share": Case(
        constraints=Constraints(max_share_per_region=0.85),
        wrong=(
            (
                holding(on_l4=0.1),
                "model 'chat' has 0.925000000 of its rate on aws/us-east-1 where at most 0.85 is allowed",
            ),
        ),
    ),
    "cloud_share": Case(
        constraints=Constraints(max_share_per_cloud=0.85),
        wrong=(
            (
                holding(on_l4=0.1),
                "model 'chat' has 0.925000000 of its rate on aws where at most 0.85 is allowed",
            ),
        ),
    ),
    "spot_share": Case(
        constraints=Constraints(spot=SpotPolicy(max_fraction=0.2)),
        wrong=(
            (
                holding(on_l4=1 / 3),
                "model 'chat' has 0.250000000 of its rate on spot where at most 0.2 is allowed",
            ),
        ),
    ),
    "spare": Case(
        constraints=Constraints(spare=1),
        right=holding(h100=3),
        wrong=(
            (
                holding(h100=2),
                "once 1 x h100 are lost, option 'h100' carries 1.250000000 where 1.000000000 is room",
            ),
        ),
        goal=32.0,
    ),
    "stay_close": Case(
        options=SolveOptions(
            stay_close=StayClose(
                instances=(("chat", "h100", 1), ("chat", "l4", 2), ("chat", "gone", 7)),
                switch_usd_per_hour=0.5,
            )
        ),
        goal=23.0,
        wrong=((holding(l4=2), "the goal is 23.000000 where cost and changes come to 24.500000"),),
    ),
    "max_option_types": Case(
        constraints=Constraints(max_option_types=1),
        right=holding(l4=0, on_l4=0.0),
        wrong=((holding(), "model 'chat' runs on 2 option types where at most 1 are allowed"),),
    ),
    "min_option_types": Case(
        constraints=Constraints(min_option_types=2),
        wrong=(
            (
                holding(l4=0, on_l4=0.0),
                "model 'chat' runs on 1 option type where 2 are required",
            ),
        ),
    ),
}


def violations(
    case: Case, allocations: tuple[Allocation, ...], only: str | None = None
) -> list[str]:
    """What the rules of the case, or only one, say of these allocations."""
    problem = replace(case.problem, constraints=case.constraints)
    fleet = FinishedFleet(
        problem=problem,
        options=case.options,
        demands=problem.demands,
        allocations=(allocations,),
        goal_usd_per_hour=case.goal,
        shares_after_loss=case.after_loss,
    )
    rules = RuleSet.of(problem, case.options)
    chosen = tuple(rule for rule in rules.rules if only in (None, rule.name))
    return list(replace(rules, rules=chosen).violations(fleet))


def test_every_rule_has_a_check_that_is_tried() -> None:
    assert set(CASES) == {rule.name for rule in RULES}
    assert all(case.wrong for case in CASES.values())


@pytest.mark.parametrize("rule", CASES)
def test_a_fleet_that_keeps_to_the_rule_passes(rule: str) -> None:
    assert violations(CASES[rule], CASES[rule].right) == []


@pytest.mark.parametrize("rule", CASES)
def test_a_fleet_that_breaks_the_rule_is_told_apart(rule: str) -> None:
    for allocations, message in CASES[rule].wrong:
        assert violations(CASES[rule], allocations, only=rule) == [message]


def test_a_load_is_protected_against_as_many_wrong_figures_as_asked_for() -> None:
    case = Case(options=SolveOptions(robustness=Robustness(throughput_error=0.5, budget=1)))
    # 0.5625 + 0.5 of two H100s, the heavier once more; 0.75 of an L4, and once more.
    assert violations(case, holding()) == [
        "option 'l4' carries 1.500000000 where 1.000000000 is room"
    ]
    heavier = holding(on_l4=0.1)
    assert violations(case, heavier) == []


def test_a_loss_that_nothing_is_proposed_for_is_a_violation() -> None:
    case = replace(CASES["spare"], after_loss=lambda *_: None)
    assert violations(case, holding(h100=3)) == [
        "model 'chat' is not served once 1 x h100 are lost",
        "model 'chat' is not served once 1 x l4 are lost",
    ]


def test_a_proposal_that_serves_too_little_after_a_loss_is_a_violation() -> None:
    case = replace(CASES["spare"], after_loss=lambda *_: {"h100": (((0.5, 1.0),), ())})
    assert violations(case, holding(h100=3))[0] == (
        "once 1 x h100 are lost, bucket (0, 0) is served 0.500000000 times, not 1.0"
    )


def test_paid_groups_that_overlap_pay_in_whichever_way_pays_for_all() -> None:
    """The first group may pay for both, the second for one of them: order must not matter."""
    groups = (
        InstanceGroup(accelerator="H100", instances=2),
        InstanceGroup(accelerator="H100", cloud="aws", instances=1),
    )
    for order in (groups, groups[::-1]):
        case = Case(constraints=Constraints(fixed=order))
        assert violations(case, holding(h100=3, fixed=3)) == []
        assert violations(case, holding(h100=4, fixed=4)) == ["nothing pays for 1 of 'h100'"]


def test_a_solver_that_is_wrong_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(
        demands=(demand([[4.0]], option("a", 1.0, [[1.0]])),),
        constraints=Constraints(min_replicas=4),
    )
    settle = optimum.settle_levels

    def one_fewer(*args: object) -> object:
        settled = settle(*args)  # type: ignore[arg-type]
        point = replace(settled.point, instances=[settled.point.instances[0] - 1])
        return replace(settled, point=point)

    monkeypatch.setattr(optimum, "settle_levels", one_fewer)
    with pytest.raises(RuntimeError) as caught:
        optimize(problem)
    assert str(caught.value) == (
        "option 'a' carries 4.000000000 where 3.000000000 is room; "
        "model 'chat' has 3 replicas where 4 are required; "
        "$3.000000/h is billed, not $4.000000/h"
    )
