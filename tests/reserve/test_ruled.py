"""Reservations under rules: against one whole integer program, against the advice without, and by the rules' checks."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.constraints import Constraints
from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import SolveOptions
from melange_sky.optimizer.answers.rate_sweep import at_rate
from melange_sky.optimizer.deadline import Deadline, TimeUpError
from melange_sky.optimizer.rules.groups import Fixed, Minimum
from melange_sky.optimizer.rules.instances import Limits, MinReplicas
from melange_sky.optimizer.rules.losses import Spare
from melange_sky.optimizer.rules.money import Budget, StayCloseToFleet
from melange_sky.optimizer.rules.option_types import MaxOptionTypes, MinOptionTypes
from melange_sky.optimizer.rules.registry import RULES, RuleSet
from melange_sky.optimizer.rules.serving import Load
from melange_sky.optimizer.search.levels import checked_levels
from melange_sky.optimizer.search.loss_scenarios import worst_loss
from melange_sky.optimizer.search.shares import peak_load
from melange_sky.reserve.advise import advise
from melange_sky.reserve.answer import Advice
from melange_sky.reserve.build import served_by
from melange_sky.reserve.ruled import ruled_by
from melange_sky.reserve.tariff import Tariff
from tests.optimizer.factories import with_levels
from tests.reserve.factories import random_problem
from tests.reserve.ruled_factories import (
    RuledCase,
    in_one_program,
    random_rules,
    ruled_case,
    whole_ruled_program,
)

KINDS = (
    ("limits",),
    ("spare",),
    ("min_replicas",),
    ("max_option_types",),
    ("min_option_types",),
    ("share",),
    ("limits", "spare"),
    ("share", "spare", "max_option_types"),
    ("limits", "min_replicas", "share"),
)


def drawn(seed: int, kinds: tuple[str, ...]) -> tuple[RuledCase, float | None]:
    """A case of one or two models and its least cost by one program; None where no fleet keeps the rules."""
    rng = random.Random(seed)
    models = 1 + seed % 2
    case = ruled_case(rng, random_rules(rng, kinds), models=models, options=4 - models)
    return case, whole_ruled_program(case)


@pytest.mark.parametrize(("seed", "kinds"), list(product(range(4), KINDS)))
def test_equals_a_whole_integer_program_with_the_rules(seed: int, kinds: tuple[str, ...]) -> None:
    try:
        case, least = drawn(seed, kinds)
    except InfeasibleError as error:
        assert "no fleet keeps to the shares" in str(error)
        return
    if least is None:
        with pytest.raises(InfeasibleError, match="no fleet serves"):
            advise(case.question)
        return
    advice = advise(case.question)
    assert advice.gap == 0
    assert advice.totals.chosen_usd == pytest.approx(least, rel=1e-6)
    assert advice.totals.bound_usd <= advice.totals.chosen_usd * (1 + 1e-9)
    check_fleets(case, advice.fleets)


@pytest.mark.parametrize(("seed", "kinds"), list(product(range(4, 8), KINDS[:4])))
def test_a_bound_to_a_gap_is_none_of_what_was_not_sought(seed: int, kinds: tuple[str, ...]) -> None:
    try:
        case, least = drawn(seed, kinds)
    except InfeasibleError:
        return
    if least is None:
        return
    for within in (1e-3, 3e-2):
        advice = advise(replace(case.question, within=within))
        assert advice.bound_objective_usd <= least * (1 + 1e-9)
        assert least <= advice.objective_usd * (1 + 1e-9)
        assert advice.gap <= within


def check_fleets(case: RuledCase, fleets: np.ndarray) -> None:
    """Every period's fleet by the optimizer's own checks: instances, shares, and what each loss leaves."""
    rates = case.question.scenarios[0].rate_rps
    for rate, fleet in zip(rates.tolist(), fleets, strict=True):
        if not rate:
            continue
        (form,) = checked_levels(at_rate(case.problem, rate * (1 - 1e-6)), SolveOptions().deadline)
        canonical = form.canonical
        names = [d.name for d in canonical.demands]
        counts = [int(fleet[case.places[names[c.demand], c.name]]) for c in canonical.columns]
        options = SolveOptions()
        peak = peak_load(canonical, form.problem, options, counts)
        assert peak is not None and peak <= 1 + 1e-6
        assert worst_loss(canonical, form.problem, options, counts) is None
        for rule in RuleSet.of(form.problem, options).rules:
            assert rule.name in ("serve", "load", "spare") or holds(rule.name, case, fleet), (
                rule.name
            )


def holds(name: str, case: RuledCase, fleet: np.ndarray) -> bool:
    """Whether a fleet keeps a rule, counted by hand."""
    rules, first = case.problem.constraints, 0
    own = []
    for only in case.problem.demands:
        own.append(fleet[first : first + len(only.options)])
        first += len(only.options)
    units = [o.option for d in case.problem.demands for o in d.options]
    if name == "limits":
        return all(
            sum(n * o.units(key) for n, o in zip(fleet, units, strict=True)) <= most
            for key, most in rules.limits
        )
    return {
        "min_replicas": all(n.sum() >= rules.min_replicas for n in own),
        "max_option_types": all((n > 0).sum() <= (rules.max_option_types or 9) for n in own),
        "min_option_types": all((n > 0).sum() >= rules.min_option_types for n in own),
        "cloud_share": True,  # of shares: looked at above
    }[name]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(KINDS))
def test_a_rule_never_lowers_the_cost_and_one_that_does_not_bind_leaves_it(
    seed: int, kinds: tuple[str, ...]
) -> None:
    rng = random.Random(seed)
    rules = random_rules(rng, kinds)
    state = rng.getstate()
    found = []
    for constraints in (
        Constraints(),
        rules,
        replace(Constraints(), min_replicas=1, max_option_types=9),
    ):
        rng.setstate(state)
        try:
            advice = advise(ruled_case(rng, constraints, periods=3).question)
        except InfeasibleError:
            return
        found.append(advice.totals)
    free, ruled, loose = found
    assert ruled.chosen_usd >= free.chosen_usd * (1 - 1e-6)
    assert ruled.all_on_demand_usd >= free.all_on_demand_usd * (1 - 1e-6)
    assert loose.chosen_usd == pytest.approx(free.chosen_usd, rel=1e-6)
    assert loose.bound_usd == pytest.approx(free.bound_usd, rel=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_without_rules_the_fleets_serve_what_the_other_engine_says(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng, 3, levels=seed % 2 == 1)
    names = [o.option.name for o in problem.demands[0].options]
    places = {(problem.demands[0].name, name): k for k, name in enumerate(names)}
    try:
        plain, ruled = served_by(problem, names), ruled_by(problem, places, 3)
    except InfeasibleError:
        return
    for _ in range(8):
        fleet = np.array([float(rng.randrange(4)) for _ in names])
        assert ruled.rate(fleet) == pytest.approx(plain.rate(fleet), rel=1e-6, abs=1e-9)


def test_levels_of_attainment_are_kept_under_rules() -> None:
    rng = random.Random(5)
    for _ in range(5):
        case = ruled_case(rng, Constraints(spare=1), options=2)
        problem = with_levels(case.problem, rng)
        try:
            served = ruled_by(problem, case.places, 2)
        except InfeasibleError:
            continue
        two = served.rate(np.array([1.0, 1.0]))
        alone = [served.ruled[0].after.rate(np.array(one)) for one in ([1.0, 0.0], [0.0, 1.0])]
        assert two >= min(alone) * (1 - 1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_rules_as_numbers_say_what_they_say_in_words_and_let_in_what_they_have_room_for(
    seed: int,
) -> None:
    rng = random.Random(seed)
    kinds = ("limits", "min_replicas", "max_option_types", "min_option_types")
    rules = random_rules(rng, (kinds[seed % 4], "limits") if seed < 4 else (kinds[seed % 4],))
    case = ruled_case(rng, rules, models=1 + seed // 4, options=3)
    served = in_one_program(case)
    names = [rule.name for rule in served.ruled[0].rules]
    kept = 0
    for _ in range(120):
        fleet = np.array([rng.choice([0.0, 0.0, 1.0, 2.0, 3.0]) for _ in case.places])
        by_hand = all(holds(name, case, fleet) for name in names)
        assert served.ruled[0].keeps_rules(fleet) == by_hand
        rate = served.rate(fleet)
        if not by_hand or rate <= 0:
            continue
        kept += 1
        paid = np.array([float(rng.randrange(6)) for _ in case.places])
        more = served.with_idle(fleet, paid, rate * (1 - 1e-6))
        assert (more >= fleet).all() and (more <= np.maximum(fleet, paid)).all()
        assert served.rate(more) >= rate * (1 - 1e-6)
        for option in np.flatnonzero(paid > more):
            beyond = more.copy()
            beyond[option] += 1
            assert not all(holds(name, case, beyond) for name in names)
    assert kept


def test_every_rule_about_whole_instances_is_one_that_reservations_reckon_with() -> None:
    kept = {Limits, MinReplicas, Minimum, MaxOptionTypes, MinOptionTypes}
    apart = {Load, Spare, Fixed, Budget, StayCloseToFleet}
    assert {rule for rule in RULES if not rule.speaks_of_shares} == kept | apart


class Ticks:
    """A clock that goes on by one with every look at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("kinds", [("limits",), ("spare",), ("min_replicas", "share")])
def test_an_advice_that_runs_out_of_time_is_one_all_the_same(kinds: tuple[str, ...]) -> None:
    full = [advice_within(kinds, math.inf)[0]]
    assert full[0] is not None and not full[0].late
    answers = late = 0
    for ticks in (1, 10, 30, 100, 200, 400, 800, 1600, 3200):
        advice, looks = advice_within(kinds, float(ticks))
        if advice is None:
            assert not answers  # with more time there is an answer still
            continue
        answers += 1
        late += bool(advice.late)
        # all that is begun ends with the time: what stands beside the answer has 1 s (here a look) more
        assert looks <= max(ticks, 1) + MORE_LOOKS
        assert advice.totals.chosen_usd >= full[0].totals.chosen_usd * (1 - 1e-9)
        assert advice.bound_objective_usd <= full[0].objective_usd * (1 + 1e-9)
        assert advice.gap >= 0
        nulls = (advice.totals.bound_usd, advice.totals.commit_peak_usd)
        assert (None in nulls) <= bool(advice.late)
    assert answers and late


MORE_LOOKS = 5


def advice_within(kinds: tuple[str, ...], ticks: float) -> tuple[Advice | None, float]:
    """The advice on a case with so many looks at the clock, None for none in time, and how many there were."""
    rng, clock = random.Random(3), Ticks()
    case = ruled_case(rng, random_rules(rng, kinds), options=3, periods=6)
    deadline = Deadline(ticks, clock)
    case.question.mixes[0].until(deadline)
    try:
        return advise(case.question, deadline=deadline), clock.now
    except TimeUpError:
        return None, clock.now


@pytest.mark.parametrize("seed", range(6))
def test_models_that_nothing_ties_cost_what_each_does_alone(seed: int) -> None:
    rng = random.Random(seed)
    case = ruled_case(rng, Constraints(spare=seed % 2), options=5, models=2)
    prices = case.question.scenarios[0].rents[0]
    tariff = Tariff(free=np.zeros(len(prices)), full=prices)
    rate = 40.0
    both = ruled_by(at_rate(case.problem, rate), case.places, len(prices)).cheapest(tariff, rate)
    alone = 0.0
    for only in case.problem.demands:
        problem = replace(case.problem, demands=(only,))
        own = rate * only.workload.rate_rps / sum(d.workload.rate_rps for d in case.problem.demands)
        places = {place: k for place, k in case.places.items() if place[0] == only.name}
        found = ruled_by(at_rate(problem, own), places, len(prices)).cheapest(tariff, own)
        assert found is not None
        alone += found.cost
    assert both is not None
    assert both.cost == pytest.approx(alone, rel=1e-6)
    assert both.bound == pytest.approx(both.cost, rel=1e-9)
