"""What must hold for every problem, on random ones."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.capacities import CapacityCell, OptionCapacity, levels_above, levels_below
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import (
    Constraints,
    InstanceGroup,
    Problem,
    Robustness,
    Solution,
    SolveOptions,
    SpotPolicy,
    StayClose,
    optimize,
)
from tests.optimizer.brute import brute_force
from tests.optimizer.factories import (
    at_most,
    demand,
    option,
    placed,
    shipped_config,
    with_levels,
)
from tests.optimizer.test_brute_force import random_problem

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None)
SLACK = 1e-7

rates = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0])
capacities = st.sampled_from([None, 0.5, 1.0, 1.5, 2.0, 4.0])
prices = st.integers(min_value=30, max_value=900).map(lambda cents: cents / 100)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """One to three options over one to three buckets; exact fits are common, gaps too."""
    buckets = draw(st.integers(1, 3))
    row = st.lists(capacities, min_size=buckets, max_size=buckets)
    candidates: list[OptionCapacity] = [
        placed(
            f"o{k}",
            draw(prices),
            [draw(row)],
            ("aws/us-east-1", "gcp/us-central1")[k % 2],
            accelerator="AB"[k % 2],
        )
        for k in range(draw(st.integers(1, 3)))
    ]
    demanded = draw(st.lists(rates, min_size=buckets, max_size=buckets))
    return Problem(
        demands=(demand([demanded], *candidates),), headroom=draw(st.sampled_from([0.0, 0.1]))
    )


def cost(problem: Problem, options: SolveOptions | None = None) -> float:
    """The least cost, infinite where there is no fleet."""
    try:
        return optimize(problem, options).optimum_usd_per_hour
    except InfeasibleError:
        return math.inf


def seeded(seed: int) -> Problem:
    return random_problem(random.Random(seed), options=3, buckets=3)


@SETTINGS
@given(problems())
def test_equals_brute_force(problem: Problem) -> None:
    truth = brute_force(problem)
    found = cost(problem)
    assert found == pytest.approx(math.inf if truth is None else truth.goal, abs=1e-9)


@SETTINGS
@given(problems(), st.integers(1, 4))
def test_fractional_is_never_dearer_than_sliced(problem: Problem, slices: int) -> None:
    sliced = SolveOptions(assignment="sliced", slice_factor=slices)
    assert cost(problem) <= cost(problem, sliced) + SLACK


@SETTINGS
@given(problems(), st.sampled_from([1.1, 1.5, 3.0]))
def test_more_rate_is_never_cheaper(problem: Problem, factor: float) -> None:
    more = tuple(tuple(r * factor for r in row) for row in problem.demands[0].workload.rates_rps)
    workload = replace(problem.demands[0].workload, rates_rps=more)
    busier = replace(problem, demands=(replace(problem.demands[0], workload=workload),))
    assert cost(busier) >= cost(problem) - SLACK


@SETTINGS
@given(problems(), st.sampled_from([0.5, 0.8, 0.99]))
def test_a_tighter_slo_is_never_cheaper(problem: Problem, factor: float) -> None:
    """A tighter SLO lowers every capacity and may take some away."""
    options = tuple(
        option(
            c.option.name,
            c.option.price_usd_per_hour,
            [
                [None if cell.max_rate_rps is None else cell.max_rate_rps * factor for cell in row]
                for row in c.cells
            ],
        )
        for c in problem.demands[0].options
    )
    tighter = replace(problem, demands=(replace(problem.demands[0], options=options),))
    assert cost(tighter) >= cost(problem) - SLACK


@SETTINGS
@given(problems(), prices, st.lists(capacities, min_size=3, max_size=3))
def test_one_more_offer_is_never_dearer(
    problem: Problem, price: float, row: list[float | None]
) -> None:
    first = problem.demands[0]
    buckets = len(first.workload.rates_rps[0])
    extra = placed("extra", price, [row[:buckets]], "aws/us-west-2", accelerator="C")
    wider = replace(problem, demands=(replace(first, options=(*first.options, extra)),))
    assert cost(wider) <= cost(problem) + SLACK


TIGHTENINGS: dict[str, list[Constraints]] = {
    "limits": [Constraints(limits=at_most(("A", n))) for n in (6, 3, 1, 0)],
    "cloud limit": [Constraints(limits=at_most(("aws", n))) for n in (6, 3, 1, 0)],
    "minimum": [
        Constraints(minimum=(InstanceGroup(accelerator="B", instances=n),)) for n in (0, 1, 3)
    ],
    "min_replicas": [Constraints(min_replicas=n) for n in (0, 2, 4)],
    "spare": [Constraints(spare=n) for n in (0, 1, 2)],
    "region_share": [Constraints(max_share_per_region=f) for f in (1.0, 0.7, 0.5, 0.35)],
    "cloud_share": [Constraints(max_share_per_cloud=f) for f in (1.0, 0.7, 0.5)],
    "spot_share": [Constraints(spot=SpotPolicy(max_fraction=f)) for f in (1.0, 0.5, 0.2, 0.0)],
    "spot interruptions": [
        Constraints(spot=SpotPolicy(interruption_rate=r)) for r in (0.0, 1.0, 10.0)
    ],
    "budget": [Constraints(budget_usd_per_hour=b) for b in (1000.0, 10.0, 1.0)],
    "fixed, taken away": [
        Constraints(fixed=(InstanceGroup(accelerator="A", instances=n),)) for n in (3, 1, 0)
    ],
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", TIGHTENINGS)
def test_asking_for_more_is_never_cheaper(what: str, seed: int) -> None:
    problem = seeded(7000 + seed)
    costs = [cost(replace(problem, constraints=c)) for c in TIGHTENINGS[what]]
    for looser, tighter in itertools.pairwise(costs):
        assert tighter >= looser - SLACK


@pytest.mark.parametrize("seed", range(6))
def test_protection_is_never_free_and_ordered_by_its_budget(seed: int) -> None:
    problem = seeded(8000 + seed)
    costs = [cost(problem)]
    for budget in (0, 1, 2, None):
        robust = SolveOptions(robustness=Robustness(throughput_error=0.25, budget=budget))
        costs.append(cost(problem, robust))
    assert costs[0] == pytest.approx(costs[1], abs=SLACK)
    assert costs == sorted(costs) or all(b >= a - SLACK for a, b in itertools.pairwise(costs))


def as_text(solution: Solution) -> str:
    return repr((solution.allocations, solution.cost_usd_per_hour, solution.alternatives))


@pytest.mark.parametrize(
    ("constraints", "runs"),
    [(Constraints(), 100), (Constraints(spare=1, max_share_per_cloud=0.9), 10)],
)
def test_shuffled_runs_give_the_same_fleet(constraints: Constraints, runs: int) -> None:
    problem = random_problem(random.Random(5), options=4, buckets=4, models=2)
    problem = replace(problem, constraints=constraints)
    first = as_text(optimize(problem))
    rng = random.Random(0)
    for _ in range(runs):
        shuffled = [
            replace(d, options=tuple(rng.sample(d.options, len(d.options))))
            for d in problem.demands
        ]
        assert as_text(optimize(replace(problem, demands=tuple(shuffled)))) == first


def test_fleets_follow_the_order_of_the_models() -> None:
    problem = random_problem(random.Random(6), options=4, buckets=4, models=2)
    there = optimize(problem)
    back = optimize(replace(problem, demands=problem.demands[::-1]))
    assert back.allocations == there.allocations[::-1]


@pytest.mark.parametrize("seed", range(8))
def test_within_a_band_is_simpler_and_inside_it(seed: int) -> None:
    problem = seeded(9000 + seed)
    best = optimize(problem)
    simple = optimize(problem, SolveOptions(within_fraction=0.2))
    assert simple.optimum_usd_per_hour == pytest.approx(best.cost_usd_per_hour)
    assert simple.cost_usd_per_hour <= best.cost_usd_per_hour * 1.2 + SLACK
    assert len(simple.allocations[0]) <= len(best.allocations[0])


def test_alternatives_are_distinct_and_no_cheaper() -> None:
    # None of the three carries more for its price in both buckets, so that seven sets are possible.
    problem = Problem(
        demands=(
            demand(
                [[2.0, 2.0]],
                option("a", 1.0, [[1.0, 0.4]]),
                option("b", 1.1, [[0.4, 1.0]]),
                option("c", 2.3, [[1.6, 1.6]]),
            ),
        )
    )
    solution = optimize(problem, SolveOptions(alternatives=3))
    sets = [frozenset(a.candidate.option.name for a in solution.allocations[0])]
    costs = [solution.cost_usd_per_hour]
    for other in solution.alternatives:
        sets.append(frozenset(a.candidate.option.name for a in other.allocations[0]))
        costs.append(other.cost_usd_per_hour)
        assert "instead of" in other.differs
    assert len(solution.alternatives) == 3
    assert len(set(sets)) == 4
    assert all(b >= a - SLACK for a, b in itertools.pairwise(costs))


def test_staying_close_holds_the_fleet_until_the_saving_pays_for_the_switch() -> None:
    config = shipped_config()
    running = (("chat", "A10G", 12),)  # 12 x A10G serve it too, at $12.12 against $4.68
    held = SolveOptions(stay_close=StayClose(instances=running, switch_usd_per_hour=1.0))
    # Turning 11 A10Gs off and one A100 on is 12 changes for $7.44: not worth $12.
    assert [a.candidate.option.name for a in optimize(config, held).allocations[0]] == ["A10G"]
    cheap = SolveOptions(stay_close=StayClose(instances=running, switch_usd_per_hour=0.1))
    moved = optimize(config, cheap)
    assert moved.cost_usd_per_hour == pytest.approx(4.68)


def test_fixed_capacity_is_used_first_and_not_billed() -> None:
    config = replace(
        shipped_config(),
        constraints=Constraints(fixed=(InstanceGroup(accelerator="A100-80GB", instances=2),)),
    )
    solution = optimize(config)
    (allocation,) = solution.allocations[0]
    assert (allocation.instances, allocation.fixed_instances) == (2, 2)
    assert solution.cost_usd_per_hour == allocation.cost_usd_per_hour == 0.0


def test_spot_capacity_is_derated_by_interruptions() -> None:
    # Out of every 3600 s between two interruptions 3600 more are lost: half of it can be counted on.
    spot = placed("spot", 1.0, [[1.0]], "aws/us-east-1", use_spot=True)
    policy = SpotPolicy(interruption_rate=1.0, recovery_s=3600)
    problem = Problem(demands=(demand([[3.0]], spot),), constraints=Constraints(spot=policy))
    (allocation,) = optimize(problem).allocations[0]
    assert allocation.instances == 6
    assert allocation.load_fraction == pytest.approx(0.5)


late_problems = st.integers(0, 10_000).map(
    lambda seed: with_levels(
        random_problem(random.Random(seed), options=2, buckets=3), random.Random(seed)
    )
)


def with_target(problem: Problem, target: float | None) -> Problem:
    return replace(problem, demands=tuple(replace(d, target=target) for d in problem.demands))


@st.composite
def curves(draw: st.DrawFn) -> list[tuple[float, list[tuple[float, float, float]]]]:
    """Per option a price, and per bucket (saturated rate, rate at 95 %, how fast it falls)."""
    buckets = draw(st.integers(1, 3))
    saturated = st.sampled_from([1.0, 2.0, 4.0])
    cell = st.tuples(saturated, st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.sampled_from([0.02, 1.0]))
    row = st.lists(cell, min_size=buckets, max_size=buckets)
    return [(draw(prices), draw(row)) for _ in range(draw(st.integers(1, 2)))]


def asked_at(
    target: float, curves: list[tuple[float, list[tuple[float, float, float]]]], rates: list[float]
) -> Problem:
    """The problem whose options carry less the more requests must be in time, as their curves say."""

    def cell(saturated: float, part: float, fall: float) -> CapacityCell:
        def at(attainment: float) -> float:
            return saturated * min(1.0, part * ((1 - attainment) / 0.05) ** fall)

        if not part:
            return CapacityCell(max_rate_rps=None, levels=((0.0, saturated),))
        above = [(a, at(a)) for a in levels_above(target)]
        _, half = levels_below(target)
        late = [(0.0, saturated), (half, at(half))]
        return CapacityCell(max_rate_rps=at(target), levels=(*late, *above))

    options = tuple(
        replace(option(f"o{k}", price, [[1.0] * len(row)]), cells=(tuple(cell(*c) for c in row),))
        for k, (price, row) in enumerate(curves)
    )
    demanded = demand([(rates * 3)[: len(curves[0][1])]], *options)
    return Problem(demands=(replace(demanded, target=target),), headroom=0.1)


@SETTINGS
@given(
    curves(),
    st.lists(st.sampled_from([0.01, 0.1, 1.0, 2.0]), min_size=1, max_size=3),
    st.sampled_from([(0.99, 0.95), (0.95, 0.9), (0.9, 0.89), (0.8, 0.5)]),
)
def test_a_looser_target_is_never_dearer(
    curves: list[tuple[float, list[tuple[float, float, float]]]],
    rates: list[float],
    targets: tuple[float, float],
) -> None:
    tight, loose = (cost(asked_at(target, curves, rates)) for target in targets)
    assert loose <= tight + SLACK


@SETTINGS
@given(late_problems)
def test_all_requests_together_are_never_dearer_than_every_size_by_itself(problem: Problem) -> None:
    assert cost(problem) <= cost(with_target(problem, None)) + SLACK


@SETTINGS
@given(late_problems, st.sampled_from([1.1, 1.5, 3.0]))
def test_more_rate_is_never_cheaper_where_some_may_be_late(problem: Problem, factor: float) -> None:
    more = tuple(tuple(r * factor for r in row) for row in problem.demands[0].workload.rates_rps)
    workload = replace(problem.demands[0].workload, rates_rps=more)
    busier = replace(problem, demands=(replace(problem.demands[0], workload=workload),))
    assert cost(busier) >= cost(problem) - SLACK


@SETTINGS
@given(late_problems)
def test_one_more_option_is_never_dearer_where_some_may_be_late(problem: Problem) -> None:
    (first,) = problem.demands
    fewer = replace(problem, demands=(replace(first, options=first.options[1:]),))
    assert cost(problem) <= cost(fewer) + SLACK
