"""Every rule in the registry × every pruning, switched on and off, against every fleet tried.

A rule without a golden LP, a clause, a check that can fail, or a case here fails a test.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import (
    Constraints,
    InstanceGroup,
    Problem,
    Robustness,
    SolveOptions,
    SpotPolicy,
    StayClose,
    optimize,
    sweep_rates,
)
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.optimizer.problem.canonical import canonical_form
from melange_sky.optimizer.rules.base import Rule
from melange_sky.optimizer.rules.registry import RULES, RuleSet
from melange_sky.optimizer.search import cheapest, dominance, incumbent, simplest
from melange_sky.optimizer.search.column_bounds import worth_a_look
from melange_sky.optimizer.search.dominance import drop_dominated
from melange_sky.optimizer.search.equal_cost import simpler_fleets
from melange_sky.optimizer.search.levels import at_levels
from melange_sky.planner.sensitivity import _contenders
from tests.optimizer.brute import Best, brute_force
from tests.optimizer.factories import at_most, demand, placed, with_levels
from tests.optimizer.test_brute_force import CASES as CONSTRAINTS
from tests.optimizer.test_brute_force import hash_of, price_of_changes, random_problem

GOLDENS = Path(__file__).parent / "goldens"
SEEDS = range(5)

Asked = tuple[Constraints, SolveOptions]

CASES: dict[str, Callable[[random.Random], Asked]] = {
    "serve": lambda _: (Constraints(), SolveOptions()),
    "load": lambda rng: (
        Constraints(),
        SolveOptions(
            robustness=Robustness(throughput_error=0.2, budget=rng.choice([None, 0, 1, 2]))
        ),
    ),
    "attainment": lambda _: (Constraints(), SolveOptions()),
    "stay_close": lambda rng: (
        Constraints(),
        SolveOptions(
            stay_close=StayClose(
                instances=tuple(("m0", f"o{k}", rng.randint(0, 3)) for k in range(2)),
                switch_usd_per_hour=rng.choice([0.1, 0.5, 2.0]),
            )
        ),
    ),
}
"""What asks for each rule; those not named here are asked for by constraints alone."""


def asked_for(rule: str, rng: random.Random) -> Asked:
    """What asks for the rule."""
    if rule in CASES:
        return CASES[rule](rng)
    return CONSTRAINTS[rule](rng), SolveOptions()


@cache
def case(rule: str, seed: int) -> tuple[Problem, SolveOptions, Best | None]:
    """A random problem that asks for the rule, and the truth about it."""
    rng = random.Random(hash_of(rule) + 31 * seed)
    problem = random_problem(rng, options=2 if rule == "spare" else 3, buckets=2)
    if rule == "attainment":
        problem = with_levels(problem, rng)
    constraints, options = asked_for(rule, rng)
    problem = replace(problem, constraints=constraints)
    return problem, options, brute_force(problem, options)


def agree(problem: Problem, options: SolveOptions, truth: Best | None) -> None:
    """Assert that the optimizer finds what brute force did."""
    try:
        solution = optimize(problem, options)
    except InfeasibleError:
        assert truth is None
        return
    assert truth is not None
    used = [a for mine in solution.allocations for a in mine]
    goal = solution.cost_usd_per_hour + price_of_changes(problem, solution, options)
    assert goal == pytest.approx(truth.goal, abs=1e-7)
    assert (len(used), sum(a.instances for a in used)) == (truth.types, truth.instances)


Pruning = Callable[[pytest.MonkeyPatch], None]


def no_dominance(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dominance, "drop_dominated", lambda canonical, _: canonical.placed())


def wider_bounds(patch: pytest.MonkeyPatch) -> None:
    narrow = RuleSet.instance_bounds
    patch.setattr(
        RuleSet, "instance_bounds", lambda self, canonical: [n + 2 for n in narrow(self, canonical)]
    )


def first_look(patch: pytest.MonkeyPatch) -> None:
    """On problems this small too, with the cheapest option of each bucket alone."""
    patch.setattr(incumbent, "FEW", 2)


def first_look_without_bounds(patch: pytest.MonkeyPatch) -> None:
    first_look(patch)
    for module in (incumbent, simplest):
        patch.setattr(module, "worth_a_look", lambda canonical, *_: range(len(canonical.columns)))


def first_look_without_dominance(patch: pytest.MonkeyPatch) -> None:
    first_look(patch)
    no_dominance(patch)


def no_counting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(simplest, "simpler_fleets", lambda *_: None)


def nothing(patch: pytest.MonkeyPatch) -> None:
    """All prunings as they are."""


PRUNINGS: dict[str, Pruning] = {
    "all on": nothing,
    "dominance off": no_dominance,
    "instance bounds off": wider_bounds,
    "first look on": first_look,
    "first look on, column bounds off": first_look_without_bounds,
    "first look on, dominance off": first_look_without_dominance,
    "counting of equal costs off": no_counting,
}


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_every_rule_under_every_pruning(
    rule: str, pruning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    PRUNINGS[pruning](monkeypatch)
    for seed in SEEDS:
        agree(*case(rule, seed))


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_a_known_cost_alters_no_result(rule: str) -> None:
    for seed in SEEDS:
        problem, options, truth = case(rule, seed)
        for factor in (0.6, 1.0, 1.3):
            known = (3.0 if truth is None else truth.goal) * factor
            agree(problem, replace(options, known_usd_per_hour=known), truth)


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_the_simplest_within_a_band(rule: str) -> None:
    for seed in SEEDS:
        problem, options, _ = case(rule, seed)
        banded = replace(options, within_fraction=0.25)
        truth = brute_force(problem, banded)
        try:
            solution = optimize(problem, banded)
        except InfeasibleError:
            assert truth is None
            continue
        assert truth is not None
        used = [a for mine in solution.allocations for a in mine]
        assert (len(used), sum(a.instances for a in used)) == (truth.types, truth.instances)


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_a_sweep_finds_what_each_rate_alone_has(rule: str) -> None:
    for seed in SEEDS:
        problem, options, truth = case(rule, seed)
        rate = problem.demands[0].workload.rate_rps
        points = sweep_rates(problem, options, (rate * 0.5, rate, rate * 2.0), None)
        here = points[1].cost_usd_per_hour
        if options.stay_close is None:
            assert here == (None if truth is None else pytest.approx(truth.goal, abs=1e-7))
        for point in points:
            try:
                alone = optimize(at_rate(problem, point.rate_rps), options).cost_usd_per_hour
            except InfeasibleError:
                assert point.cost_usd_per_hour is None
            else:
                assert point.cost_usd_per_hour == pytest.approx(alone, abs=1e-7)


@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_contenders_for_the_band_hold_the_optimum(rule: str) -> None:
    for seed in SEEDS:
        problem, options, truth = case(rule, seed)
        if options.stay_close is None:  # the band is told without it
            agree_on_cost(_contenders(problem), options, truth)


def agree_on_cost(problem: Problem, options: SolveOptions, truth: Best | None) -> None:
    try:
        cost = optimize(problem, options).cost_usd_per_hour
    except InfeasibleError:
        assert truth is None
    else:
        assert truth is not None
        assert cost == pytest.approx(truth.goal, abs=1e-7)


@pytest.mark.parametrize("pruning", ["all on", "first look on", "dominance off"])
@pytest.mark.parametrize("rule", [rule.name for rule in RULES if rule.name != "attainment"])
def test_every_rule_where_some_requests_may_be_late(
    rule: str, pruning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    PRUNINGS[pruning](monkeypatch)
    for seed in SEEDS:
        agree(*late_case(rule, seed))


@cache
def late_case(rule: str, seed: int) -> tuple[Problem, SolveOptions, Best | None]:
    """A random problem that asks for the rule and lets requests be late, and the truth about it."""
    rng = random.Random(hash_of(rule) + 77 * seed)
    problem = with_levels(random_problem(rng, options=2, buckets=2), rng)
    constraints, options = asked_for(rule, rng)
    problem = replace(problem, constraints=constraints)
    return problem, options, brute_force(problem, options)


@pytest.mark.parametrize("seed", range(60))
def test_two_rules_at_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(8800 + seed)
    names = rng.sample([rule.name for rule in RULES if rule.name != "serve"], 2)
    problem = random_problem(rng, options=2 if "spare" in names else 3, buckets=2)
    if "attainment" in names:
        problem = with_levels(problem, rng)
    both = [asked_for(name, rng) for name in names]
    asked = [changes(c) for c, _ in both]
    problem = replace(problem, constraints=Constraints(**asked[0], **asked[1]))
    asked = [changes(o) for _, o in both]
    options = SolveOptions(**asked[0], **asked[1])
    truth = brute_force(problem, options)
    agree(problem, options, truth)
    first_look(monkeypatch)
    agree(problem, options, truth)


def changes(part: Constraints | SolveOptions) -> dict[str, Any]:
    """What a part asks for beyond the defaults."""
    plain = type(part)()
    return {
        f.name: value
        for f in fields(part)
        if (value := getattr(part, f.name)) != getattr(plain, f.name)
    }


def test_options_looked_at_one_by_one_leave_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [
        with_levels(random_problem(random.Random(seed), options=9, buckets=4), random.Random(seed))
        for seed in range(20)
    ]
    forms = [
        (canonical_form(one), RuleSet.of(one, SolveOptions()))
        for p in problems
        for one in at_levels(p)
    ]
    together = [[c.name for c in drop_dominated(*form).columns] for form in forms]
    monkeypatch.setattr(dominance, "MOST_AT_ONCE", 1)
    assert [[c.name for c in drop_dominated(*form).columns] for form in forms] == together


def test_each_pruning_leaves_something_out() -> None:
    dropped = bounded = counted = contending = looked = 0
    for seed in range(20):
        problem = random_problem(random.Random(seed), options=3, buckets=2)
        canonical, options = canonical_form(problem), SolveOptions()
        rules = RuleSet.of(problem, options)
        dropped += 3 - len(drop_dominated(canonical, rules).columns)
        truth = brute_force(problem)
        assert truth is not None
        bounded += 3 - len(worth_a_look(canonical.placed(), problem, options, truth.goal))
        worst = [99] * len(canonical.columns)
        counted += simpler_fleets(canonical.placed(), problem, truth.goal, worst) is not None
        contending += 3 - len(_contenders(problem).demands[0].options)
        with few_options():
            looked += cheapest.first_options(canonical, problem, options) is not None
    assert min(dropped, bounded, counted, contending, looked) > 0


@contextmanager
def few_options() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        first_look(patch)
        yield


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_is_asked_for_by_its_case_and_has_its_golden(rule: type[Rule]) -> None:
    found = []
    for seed in SEEDS:
        problem, options, _ = case(rule.name, seed)
        rules = [RuleSet.of(at_level, options).rules for at_level in at_levels(problem)]
        found.append(any(isinstance(r, rule) for of_level in rules for r in of_level))
    # Nothing may be late where no option of a random problem has a way to serve any size late.
    assert all(found) or (rule.name == "attainment" and any(found))
    assert (GOLDENS / f"{rule.name}.lp").is_file()


def test_some_cases_of_every_rule_have_a_fleet() -> None:
    for rule in RULES:
        assert any(case(rule.name, seed)[2] is not None for seed in SEEDS), rule.name


def test_rules_have_names_of_their_own_and_say_their_inequality() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert any(sign in (rule.__doc__ or "") for sign in "≤≥=")


NOT_GIVEN_UP = {
    "serve": "what is to be served is the question itself",
    "load": "capacity is what it is",
    "attainment": "the SLO is the question itself",
    "fixed": "what is paid for makes no fleet impossible",
    "stay_close": "changes have a price and no limit",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_that_can_be_given_up_has_clauses_that_loosen_it(rule: type[Rule]) -> None:
    problem, options, _ = case(rule.name, 0)
    canonical = canonical_form(problem)
    rules = RuleSet.of(problem, options)
    clauses = rules.clauses(canonical)
    assert bool(clauses) == (rule.name not in NOT_GIVEN_UP)
    assert not clauses or rule.weight > 0
    dropped = problem
    for clause in clauses:
        assert clause.text
        assert clause.remedy(1)
        looser = clause.relaxed(problem, 1)
        assert looser.constraints != problem.constraints
        dropped = clause.dropped(dropped)
    plain = SolveOptions()
    free = best_cost(replace(problem, constraints=Constraints(spot=derated(problem))), plain)
    if clauses:
        assert best_cost(dropped, plain) == pytest.approx(free)


def derated(problem: Problem) -> SpotPolicy | None:
    """The spot policy with no bound: its derating is no clause."""
    spot = problem.constraints.spot
    return None if spot is None else replace(spot, max_fraction=1.0)


def best_cost(problem: Problem, options: SolveOptions) -> float:
    return optimize(problem, options).cost_usd_per_hour


def test_the_clauses_go_from_light_to_heavy() -> None:
    everything = Constraints(
        budget_usd_per_hour=50.0,
        minimum=(InstanceGroup(accelerator="A", instances=1),),
        spare=1,
        min_replicas=2,
        max_share_per_region=0.7,
        max_option_types=3,
        min_option_types=2,
    )
    problem = replace(random_problem(random.Random(1)), constraints=everything)
    texts = [c.text for c in RuleSet.of(problem, SolveOptions()).clauses(canonical_form(problem))]
    assert texts == [
        "a share per region of at most 0.7",
        "at least 2 replicas",
        "1 spare instance",
        "at most 3 option types",
        "at least 2 option types",
        "the minimum of 1 x A",
        "the budget of $50/h",
    ]


def test_a_share_per_region_keeps_dearer_regions_where_one_instance_fills_a_share() -> None:
    """Three cheaper regions are no substitute where each already holds too much for one more."""
    large = [
        placed(f"large-{n}", price, [[0.7]], f"aws/region-{n}", accelerator="A")
        for n, price in enumerate((10.0, 10.0, 10.0, 10.5))
    ]
    small = [
        placed(
            f"small-{n}", 0.1, [[0.1]], f"aws/region-{n}", accelerator="B", instance_type=f"b{n}.s"
        )
        for n in range(3)
    ]
    one_each = Constraints(
        max_share_per_region=0.7,
        limits=at_most(*((f"b{n}.s", 1) for n in range(3))),
    )
    problem = Problem(demands=(demand([[1.0]], *large, *small),), constraints=one_each)
    solution = optimize(problem)
    names = sorted(a.candidate.option.name for a in solution.allocations[0])
    assert names == ["large-3", "small-0", "small-1", "small-2"]
    assert solution.cost_usd_per_hour == pytest.approx(10.8)
