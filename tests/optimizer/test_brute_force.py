"""The optimum against every fleet tried, on random small problems, constraint by constraint."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from melange_sky.capacities import EngineSettings, OptionCapacity, levels_above
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
from melange_sky.optimizer.problem.canonical import canonical_form
from melange_sky.optimizer.search.column_bounds import worth_a_look
from tests.optimizer.brute import brute_force
from tests.optimizer.factories import at_most, demand, option, placed, with_levels

PLACES = ("aws/us-east-1", "aws/us-west-2", "gcp/us-central1")


def random_problem(
    rng: random.Random, options: int = 3, buckets: int = 3, models: int = 1
) -> Problem:
    """A problem small enough to try every fleet of it; prices in whole cents, some cells absent."""
    demands = []
    for m in range(models):
        candidates = []
        for k in range(options):
            strength = rng.choice([1.0, 2.0, 4.0])
            row: list[float | None] = [
                None if rng.random() < 0.15 else round(strength * rng.uniform(0.7, 3.0), 2)
                for _ in range(buckets)
            ]
            if k == 0:
                row = [value or 2.0 for value in row]
            candidates.append(
                placed(
                    f"o{k}",
                    round(strength * rng.uniform(0.6, 1.6), 2),
                    [row],
                    PLACES[k % 3],
                    accelerator=("A", "B")[k % 2],
                    accelerator_count=rng.choice([1, 1, 2]),
                    use_spot=k == 1 and rng.random() < 0.5,
                )
            )
        rates = [round(rng.uniform(0.1, 2.5), 2) for _ in range(buckets)]
        rates[rng.randrange(buckets)] *= rng.choice([0, 1, 1])
        demands.append(demand([rates], *candidates, name=f"m{m}"))
    return Problem(demands=tuple(demands), headroom=rng.choice([0.0, 0.1]))


def agree(problem: Problem, options: SolveOptions | None = None) -> bool:
    """Assert that optimizer and brute force agree; return whether there was a fleet."""
    truth = brute_force(problem, options)
    try:
        solution = optimize(problem, options)
    except InfeasibleError:
        assert truth is None
        return False
    assert truth is not None
    used = [a for mine in solution.allocations for a in mine]
    goal = solution.cost_usd_per_hour + price_of_changes(problem, solution, options)
    assert goal == pytest.approx(truth.goal, abs=1e-9)
    assert solution.report.status == "optimal"
    assert solution.report.mip_gap == 0
    assert (len(used), sum(a.instances for a in used)) == (truth.types, truth.instances)
    return True


def price_of_changes(problem: Problem, solution: Solution, options: SolveOptions | None) -> float:
    """What turning the running fleet into this one counts, 0 where none was named."""
    if options is None or options.stay_close is None:
        return 0.0
    change = {(d, o): -n for d, o, n in options.stay_close.instances}
    for asked, mine in zip(problem.demands, solution.allocations, strict=True):
        for a in mine:
            key = asked.name, a.candidate.option.name
            change[key] = change.get(key, 0) + a.instances
    return options.stay_close.switch_usd_per_hour * sum(map(abs, change.values()))


@pytest.mark.parametrize("seed", range(250))
def test_plain(seed: int) -> None:
    rng = random.Random(seed)
    assert agree(random_problem(rng, options=rng.choice([2, 3, 3]), buckets=rng.choice([1, 2, 3])))


@pytest.mark.parametrize("seed", range(25))
def test_sliced(seed: int) -> None:
    rng = random.Random(1000 + seed)
    problem = random_problem(rng, options=2, buckets=2)
    sliced = SolveOptions(assignment="sliced", slice_factor=rng.choice([1, 2, 3]))
    truth = brute_force(problem, sliced)
    assert truth is not None
    cost = optimize(problem, sliced).cost_usd_per_hour
    assert cost == pytest.approx(truth.goal, abs=1e-9)
    assert optimize(problem).cost_usd_per_hour <= cost + 1e-9


CASES: dict[str, Callable[[random.Random], Constraints]] = {
    "limits": lambda rng: Constraints(
        limits=at_most(
            ("A", rng.randint(0, 3)),
            ("aws", rng.randint(1, 4)),
            ("aws/us-east-1", rng.randint(0, 3)),
        )
    ),
    "budget": lambda rng: Constraints(budget_usd_per_hour=round(rng.uniform(2, 12), 2)),
    "fixed": lambda rng: Constraints(
        fixed=(InstanceGroup(accelerator="A", instances=rng.randint(1, 2)),)
    ),
    "minimum": lambda rng: Constraints(
        minimum=(InstanceGroup(accelerator="B", instances=rng.randint(1, 2)),)
    ),
    "min_replicas": lambda rng: Constraints(min_replicas=rng.randint(2, 4)),
    "spare": lambda rng: Constraints(spare=rng.choice([1, 1, 2])),
    "region_share": lambda rng: Constraints(max_share_per_region=rng.choice([0.4, 0.5, 0.7])),
    "cloud_share": lambda rng: Constraints(max_share_per_cloud=rng.choice([0.4, 0.5, 0.7])),
    "spot_share": lambda rng: Constraints(
        spot=SpotPolicy(
            max_fraction=rng.choice([0.0, 0.3, 0.6]), interruption_rate=0.5, recovery_s=600
        )
    ),
    "max_option_types": lambda rng: Constraints(max_option_types=rng.choice([1, 1, 2])),
    "min_option_types": lambda rng: Constraints(min_option_types=rng.choice([2, 2, 3])),
    "all": lambda rng: Constraints(
        limits=at_most(("A", rng.randint(3, 6))),
        spare=1,
        max_share_per_cloud=0.8,
        min_replicas=2,
        fixed=(InstanceGroup(accelerator="A", instances=1),),
        spot=SpotPolicy(max_fraction=0.5, interruption_rate=0.1),
    ),
}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("case", CASES)
def test_constraint(case: str, seed: int) -> None:
    rng = random.Random(hash_of(case) + seed)
    problem = random_problem(rng, options=2 if case in ("spare", "all") else 3, buckets=2)
    agree(replace(problem, constraints=CASES[case](rng)))


def over_nodes(problem: Problem, rng: random.Random) -> Problem:
    """The same with replicas over one, two or three instances."""

    def spread(candidate: OptionCapacity) -> OptionCapacity:
        engine = EngineSettings(
            tensor_parallel=1,
            data_parallel=1,
            max_model_len=1,
            max_num_seqs=1,
            nodes=rng.choice([1, 2, 2, 3]),
        )
        return replace(candidate, option=replace(candidate.option, engine=engine))

    demands = tuple(replace(d, options=tuple(map(spread, d.options))) for d in problem.demands)
    return replace(problem, demands=demands)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("case", ["fixed", "minimum", "limits", "two groups"])
def test_replicas_over_several_instances(case: str, seed: int) -> None:
    rng = random.Random(9000 + hash_of(case) + seed)
    problem = over_nodes(random_problem(rng, options=3, buckets=2), rng)
    groups = Constraints(
        fixed=tuple(InstanceGroup(accelerator=name, instances=rng.randint(1, 3)) for name in "AA"),
        minimum=(InstanceGroup(accelerator="B", instances=rng.randint(1, 3)),),
    )
    asked = groups if case == "two groups" else CASES[case](rng)
    agree(replace(problem, constraints=asked))


@pytest.mark.parametrize("seed", range(15))
def test_robustness(seed: int) -> None:
    rng = random.Random(3000 + seed)
    robust = Robustness(throughput_error=rng.choice([0.1, 0.3]), budget=rng.choice([None, 0, 1, 2]))
    assert agree(random_problem(rng), SolveOptions(robustness=robust))


@pytest.mark.parametrize("seed", range(10))
def test_two_models_under_shared_limits(seed: int) -> None:
    rng = random.Random(4000 + seed)
    problem = random_problem(rng, options=2, buckets=2, models=2)
    limits = at_most(("A", rng.randint(1, 5)), ("gcp", 1), ("aws", rng.randint(2, 6)))
    agree(replace(problem, constraints=Constraints(limits=limits)))


@pytest.mark.parametrize("seed", range(30))
def test_stay_close(seed: int) -> None:
    rng = random.Random(5000 + seed)
    problem = random_problem(
        rng, options=rng.choice([2, 3]), buckets=2, models=rng.choice([1, 1, 2])
    )
    if len(problem.demands) == 2:
        problem = replace(
            problem, demands=tuple(replace(d, options=d.options[:2]) for d in problem.demands)
        )
    running = tuple(
        (d.name, c.option.name, rng.randint(0, 3)) for d in problem.demands for c in d.options
    )
    constraints = rng.choice(
        [Constraints(), Constraints(spare=1), Constraints(limits=at_most(("A", rng.randint(1, 4))))]
    )
    close = StayClose(instances=running, switch_usd_per_hour=rng.choice([0.0, 0.1, 0.5, 2.0]))
    agree(replace(problem, constraints=constraints), SolveOptions(stay_close=close))


@pytest.mark.parametrize("seed", range(25))
def test_no_option_that_the_best_fleet_could_hold_is_left_out(seed: int) -> None:
    rng = random.Random(6000 + seed)
    problem = random_problem(rng, options=3, buckets=3)
    truth = brute_force(problem)
    assert truth is not None
    canonical = canonical_form(problem)
    kept = worth_a_look(canonical, problem, SolveOptions(), truth.goal)
    for k in set(range(3)) - set(kept):
        named = replace(
            problem.demands[0],
            options=tuple(
                replace(c, option=replace(c.option, accelerator=c.option.name))
                for c in problem.demands[0].options
            ),
        )
        forced = Constraints(
            minimum=(InstanceGroup(accelerator=canonical.columns[k].name, instances=1),),
        )
        dearer = brute_force(replace(problem, demands=(named,), constraints=forced))
        assert dearer is None or dearer.goal > truth.goal + 1e-9


def test_an_option_that_wastes_more_than_the_gap_is_left_out() -> None:
    small, large = option("small", 1.0, [[1.0]]), option("large", 9.0, [[4.0]])
    problem = Problem(demands=(demand([[3.0]], small, large),))
    canonical = canonical_form(problem)
    # Three small ones cost $3, which is the bound; a large one would waste $9 − $3.
    assert [
        canonical.columns[k].name for k in worth_a_look(canonical, problem, SolveOptions(), 3.0)
    ] == ["small"]
    assert len(worth_a_look(canonical, problem, SolveOptions(), 9.0)) == 2


def hash_of(text: str) -> int:
    """A number of `text` that is the same in every run."""
    return sum(ord(letter) * 131**i for i, letter in enumerate(text)) % 100003


@pytest.mark.parametrize("seed", range(150))
def test_requests_may_be_late(seed: int) -> None:
    rng = random.Random(5000 + seed)
    options, buckets = rng.choice([(1, 3), (2, 2), (2, 3), (3, 2)])
    agree(with_levels(random_problem(rng, options=options, buckets=buckets), rng))


@pytest.mark.parametrize("seed", range(15))
def test_requests_of_two_models_may_be_late(seed: int) -> None:
    rng = random.Random(6000 + seed)
    agree(with_levels(random_problem(rng, options=1, buckets=2, models=2), rng))


@pytest.mark.parametrize("seed", range(20))
def test_requests_in_slices_may_be_late(seed: int) -> None:
    rng = random.Random(7000 + seed)
    problem = with_levels(random_problem(rng, options=2, buckets=2), rng)
    sliced = SolveOptions(assignment="sliced", slice_factor=rng.choice([1, 2, 3]))
    agree(problem, sliced)


def test_some_of_these_problems_serve_late_and_at_every_level() -> None:
    levels, partly, costs = set(), 0, 0
    for seed in range(150):
        rng = random.Random(5000 + seed)
        options, buckets = rng.choice([(1, 3), (2, 2), (2, 3), (3, 2)])
        problem = with_levels(random_problem(rng, options=options, buckets=buckets), rng)
        try:
            (mine,) = optimize(problem).allocations
        except InfeasibleError:
            continue
        target = problem.demands[0].target
        assert target is not None
        places = [None, *levels_above(target)]
        levels |= {places.index(a.level) for a in mine}
        partly += any(attained > 0 for a in mine for attained, _ in a.late)
        strict = replace(problem, demands=(replace(problem.demands[0], target=None),))
        costs += cost_of(strict) > cost_of(problem) + 1e-9
    assert levels == {0, 1, 2}
    assert min(partly, costs) > 5


def cost_of(problem: Problem) -> float:
    try:
        return optimize(problem).cost_usd_per_hour
    except InfeasibleError:
        return math.inf
