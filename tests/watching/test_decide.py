"""What is decided: known answers on fleets that can be reckoned by hand, and what must hold whatever comes."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.plans.guard import AllowedHours, GuardRails
from melange_sky.watching.decide import Look, Rules, State, decide, failed
from melange_sky.watching.decision import REASONS, Decision
from melange_sky.watching.forecast import Forecast
from melange_sky.watching.seen import Fault, Seen
from tests.watching.toy import FLEETS, ToyFleets, actions, followed, poisson_like, watcher

APPLY = Rules(mode="apply")
NOW = 1_790_000_000.0
STARTUP = (600.0, 600.0)


def told(high: float) -> Forecast:
    return Forecast(
        over_s=600.0,
        level_rps=high,
        rising_rps=high,
        expected_rps=high,
        high_rps=high,
        rule="trend",
        band_origin="learnt",
        noise=0.02,
    )


def look(high: float, later: float | None = None, **seen: Any) -> Look:
    values: dict[str, Any] = {"time": NOW, "rate_rps": high, "live": {"small": 1}} | seen
    return Look(seen=Seen(**values), soon=told(high), later=told(later or high))


def decided(
    rules: Rules, high: float, state: State | None = None, **seen: Any
) -> tuple[Decision, State]:
    return decide(look(high, **seen), state or State(), FLEETS, STARTUP, rules)


def test_it_grows_at_once_by_what_costs_least() -> None:
    found, state = decided(APPLY, 12.0)
    assert (found.verb, found.reason) == ("apply", "grow")
    assert found.target == {"small": 1, "large": 1}
    assert state.started_s == NOW


def test_what_starts_already_counts() -> None:
    found, _ = decided(APPLY, 12.0, starting={"large": 1})
    assert found.verb == "keep"


def test_it_shrinks_after_two_looks_that_agree() -> None:
    live = {"small": 1, "large": 2}
    first, state = decided(APPLY, 9.0, live=live)
    assert (first.verb, first.reason) == ("keep", "agree")
    second, _ = decided(APPLY, 9.0, state, live=live)
    assert (second.verb, second.reason) == ("apply", "shrink")
    assert second.target == {"large": 1}


def test_one_look_that_disagrees_begins_anew() -> None:
    live = {"small": 1, "large": 2}
    _, state = decided(APPLY, 9.0, live=live)
    _, state = decided(APPLY, 24.0, state, live=live)
    found, _ = decided(APPLY, 9.0, state, live=live)
    assert found.reason == "agree"


def test_what_started_runs_for_a_while() -> None:
    live = {"small": 1, "large": 2}
    state = State(started_s=NOW - 300, agreed=5)
    assert decided(APPLY, 9.0, state, live=live)[0].reason == "min-run"
    state = State(started_s=NOW - 700, agreed=5)
    assert decided(APPLY, 9.0, state, live=live)[0].reason == "shrink"


def test_it_keeps_what_is_needed_later() -> None:
    live = {"small": 1, "large": 2}
    found, _ = decide(look(9.0, later=24.0, live=live), State(agreed=5), FLEETS, STARTUP, APPLY)
    assert found.verb == "keep"


def test_a_saving_below_the_cost_of_the_change_is_left() -> None:
    # two small ones ($2.00) for a large one ($1.70): $0.30 an hour, $0.28 for the start and $0.33 to run both
    found, _ = decided(APPLY, 9.5, State(agreed=9), live={"small": 2})
    assert (found.verb, found.reason) == ("keep", "steady")
    patient = replace(APPLY, ahead_s=4 * 3600.0)
    found, _ = decided(patient, 9.5, State(agreed=9), live={"small": 2})
    assert (found.verb, found.reason) == ("apply", "replace")
    assert found.target == {"large": 1}


def test_an_exchange_never_counts_on_what_will_be_gone() -> None:
    state = State(target=(0, 1), started_s=NOW, changed_s=NOW)
    found, _ = decided(APPLY, 12.0, state, live={"small": 2}, starting={"large": 1})
    assert (found.verb, found.reason) == ("apply", "grow")


def test_a_lost_replica_is_made_up_for() -> None:
    found, _ = decided(APPLY, 14.0, live={"large": 1})
    assert (found.verb, found.target) == ("apply", {"small": 1, "large": 1})


def test_what_could_not_be_had_is_left_alone_for_a_while() -> None:
    state = failed(State(time=NOW), frozenset({"large"}), APPLY)
    found, after = decided(APPLY, 12.0, state)
    assert found.target == {"small": 3}
    found, _ = decided(APPLY, 12.0, after, time=NOW + 2000.0)
    assert found.target == {"small": 1, "large": 1}


def test_what_is_paid_for_stays_and_starts_for_nothing() -> None:
    fleets: Any = ToyFleets(small=(1.0, 5.0), large=(1.7, 10.0), paid=(2, 0))
    state = State(agreed=5)
    found, _ = decide(look(1.0, live={"small": 4, "large": 2}), state, fleets, STARTUP, APPLY)
    assert (found.verb, found.reason, found.target) == ("apply", "shrink", {"small": 2})
    found, _ = decide(look(1.0, live={"small": 2}), state, fleets, STARTUP, APPLY)
    assert (found.verb, found.reason) == ("keep", "steady")
    found, _ = decide(look(9.0, live={"small": 1}), State(), fleets, STARTUP, APPLY)
    (grown,) = {c.switch_usd for c in found.candidates if c.counts == {"small": 2}}
    assert (found.target, grown) == ({"small": 2}, 0.0)


def test_what_piles_up_until_more_serves_is_served_beside_what_comes() -> None:
    state = State()
    found, _ = decided(APPLY, 14.0, state, queue=0.0)  # 8.85 too many: 5310 will wait after 600 s
    assert found.target == {"large": 2}
    assert decided(APPLY, 14.0, state)[0].target == {"small": 1, "large": 1}, "no queue is seen"
    refused = decided(APPLY, 14.0, state, queue=0.0, refused_rps=9.0)
    assert refused[0].target == {"small": 1, "large": 1}, "what is refused does not wait"
    live = {"large": 1}
    assert decided(APPLY, 9.0, state, live=live, queue=1000.0)[0].verb == "keep"
    assert decided(APPLY, 9.0, state, live=live, queue=4000.0)[0].reason == "grow"


def test_while_a_change_is_under_way_a_fleet_only_grows() -> None:
    state = State(agreed=5, target=(1, 3), changed_s=NOW - 60)
    live = {"small": 1, "large": 2}
    assert decided(APPLY, 4.0, state, live=live)[0].verb == "keep"
    assert decided(APPLY, 34.0, state, live=live)[0].verb == "keep", "what was asked for will come"
    found, _ = decided(APPLY, 40.0, state, live=live)
    assert (found.verb, found.target) == ("apply", {"large": 4})
    changing = replace(look(4.0, live=live), changing=True)
    assert decide(changing, State(agreed=5), FLEETS, STARTUP, APPLY)[0].verb == "keep"


def test_a_missed_slo_grows_what_should_suffice() -> None:
    bad: dict[str, Any] = {"live": {"large": 1}, "attainment": 0.5}
    first, state = decided(APPLY, 8.0, **bad)
    assert first.slo_missed and first.verb == "keep"
    second, _ = decided(APPLY, 8.0, state, **bad)
    assert (second.verb, second.reason) == ("apply", "risk")


def test_what_a_fleet_lacked_is_kept_for_a_while_and_then_forgotten() -> None:
    bad: dict[str, Any] = {"live": {"large": 1}, "attainment": 0.5}
    state = State()
    for _ in range(2):
        found, state = decided(APPLY, 8.0, state, **bad)
    assert found.target == {
        "small": 1,
        "large": 1,
    }  # 10 req/s were promised: 10.5 and more are needed
    assert state.short == pytest.approx(10.5 / 8.0)
    good: dict[str, Any] = {"live": {"small": 1, "large": 1}, "attainment": 1.0}
    for minutes in (60, 61, 62):
        found, state = decided(APPLY, 8.0, state, time=NOW + minutes * 60, **good)
        assert (found.verb, found.reason) == ("keep", "steady")
    for minutes in (2880, 2881):
        found, state = decided(APPLY, 8.0, state, time=NOW + minutes * 60, **good)
    assert (found.verb, found.reason, found.target) == ("apply", "shrink", {"large": 1})


def test_a_fleet_that_is_too_small_for_what_comes_proves_nothing_of_its_rates() -> None:
    state = State()
    for _ in range(3):
        _, state = decided(APPLY, 14.0, state, live={"large": 1}, attainment=0.2)
    assert state.short == 1.0


def test_what_a_fleet_lacked_has_an_end() -> None:
    state = State()
    for _ in range(9):
        _, state = decided(APPLY, 0.5, state, live={"large": 1}, attainment=0.2)
    assert state.short == APPLY.most_short


def test_refused_requests_are_a_miss() -> None:
    assert decided(APPLY, 4.0, refused_rps=0.2)[0].slo_missed


def test_a_minute_of_few_requests_is_no_miss_by_chance() -> None:
    assert not decided(APPLY, 0.1, attainment=0.8)[0].slo_missed


def test_a_proposal_is_made_once_and_again_when_it_changes() -> None:
    rules = replace(APPLY, mode="propose")
    first, state = decided(rules, 12.0)
    second, state = decided(rules, 12.0, state)
    third, _ = decided(rules, 22.0, state)
    assert [d.verb for d in (first, second, third)] == ["propose", "keep", "propose"]
    assert second.reason == "standing"


def test_observing_changes_nothing_and_says_what_it_would() -> None:
    found, state = decided(replace(APPLY, mode="observe"), 12.0)
    assert (found.verb, found.reason) == ("keep", "grow")
    assert found.target is not None and state.started_s is None


@pytest.mark.parametrize(
    ("guard", "reason"),
    [
        ({"freeze": True}, "freeze"),
        ({"max_usd_per_hour": 2.0}, "max-usd"),
        ({"max_change_instances": 0}, "max-change"),
        ({"min_interval_s": 900.0}, "min-interval"),
        ({"hours": AllowedHours.read("23:59-24 UTC")}, "hours"),
    ],
)
def test_a_guard_blocks_with_its_code(guard: dict[str, object], reason: str) -> None:
    rules = replace(APPLY, guard=GuardRails(**guard))  # type: ignore[arg-type]
    found, state = decided(rules, 12.0, State(changed_s=NOW - 60), attainment=0.1)
    assert (found.verb, found.reason) == ("blocked", reason)
    assert found.slo_missed
    assert state.changed_s == NOW - 60
    assert f"guard.{reason.replace('-', '_')}"[:9] in found.message


def test_a_large_change_is_made_in_parts() -> None:
    rules = replace(APPLY, guard=GuardRails(max_change_instances=1))
    found, _ = decided(rules, 33.0)
    assert (found.verb, found.target) == ("apply", {"small": 1, "large": 1})


def test_a_dear_change_waits_for_an_approval() -> None:
    rules = replace(APPLY, guard=GuardRails(approve_above_usd=1.0))
    found, state = decided(rules, 12.0)
    assert (found.verb, found.reason) == ("propose", "approval")
    assert decided(rules, 12.0, state)[0].reason == "standing"
    dearer = replace(APPLY, guard=GuardRails(approve_above_usd=3.0))
    assert decided(dearer, 12.0)[0].verb == "apply"


def test_no_fleet_is_said() -> None:
    found, _ = decided(APPLY, 1e6)
    assert (found.verb, found.reason) == ("blocked", "no-fleet")


def test_a_constant_rate_leads_to_no_action_in_a_day() -> None:
    ticks = followed(watcher(APPLY), [8.0] * 1440, {"large": 1})
    assert actions(ticks) == []


@pytest.mark.parametrize("seed", range(3))
def test_noise_of_a_tenth_leads_to_one_action_an_hour_at_most(seed: int) -> None:
    rng = random.Random(seed)
    mean = rng.uniform(6, 40)
    rates = poisson_like(mean, 0.1, 1440, rng)
    first = FLEETS.cheapest(mean)
    assert first is not None
    live = {name: n for name, n in zip(FLEETS.options, first, strict=True) if n}
    acted = actions(followed(watcher(APPLY), rates, live))
    hours = [
        minute // 60 for minute, _ in acted if minute >= 60
    ]  # the first hour knows no noise yet
    assert len(acted) <= 24
    assert all(hours.count(hour) <= 1 for hour in set(hours)), acted


@pytest.mark.parametrize(("minutes", "most"), [(1, 9500.0), (30, 3000.0), (60, 6000.0)])
def test_a_rise_in_the_first_hours_is_followed(minutes: int, most: float) -> None:
    rng = random.Random(minutes)
    means = [5.0] * 20 + [5 + 20 * min(1, n / minutes) for n in range(1, 101)]
    rates = [mean * (1 + 0.05 * rng.gauss(0, 1)) for mean in means]
    short = 0.0
    for mean, tick in zip(means, followed(watcher(APPLY), rates, {"small": 2}), strict=True):
        assert tick.entry["forecast"]["band_origin"] == "assumed"
        live = tick.seen.live or {}
        able = FLEETS.rate(tuple(live.get(name, 0) for name in FLEETS.options))
        short += 60 * max(mean - able, 0.0)
    assert short <= most  # a leap is seen at once: 9000 are those of one start-up


FAULTS = [
    Fault(code="missing", message="gateway: melange_requests_total is missing"),
    Fault(code="frozen", message="gateway: nothing moved for 300 s while 4 requests run"),
    Fault(code="reset", message="gateway: a counter fell from 100 to 3"),
    Fault(code="renamed", message="http://h/metrics: speaks of none of the metrics looked for"),
    Fault(code="unreachable", message="http://h/metrics: nobody answers"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.code)
def test_what_cannot_be_believed_changes_nothing_and_is_one_line(fault: Fault) -> None:
    one = watcher(APPLY)
    list(followed(one, [8.0] * 60, {"large": 3}))
    seen = Seen(time=1_790_003_600.0, rate_rps=None, live={"large": 3}, faults=(fault,))
    for n in range(5):
        tick = one.tick(replace(seen, time=seen.time + 60 * n))
        assert (tick.decision.verb, tick.decision.reason) == ("keep", "signal")
        assert tick.decision.message == f"{REASONS['signal']}: {fault.message}"
        assert "\n" not in tick.decision.message


@pytest.mark.parametrize("step", [-3600.0, -1.0, 0.0, 86_400.0])
def test_a_clock_that_leaps_changes_nothing_at_that_look(step: float) -> None:
    one = watcher(APPLY)
    list(followed(one, [8.0] * 60, {"large": 1}))
    tick = one.tick(Seen(time=1_790_000_000.0 + 59 * 60 + step, rate_rps=90.0, live={"large": 1}))
    assert tick.decision.reason == "signal"
    assert tick.entry["observed"]["faults"][0]["code"] == "clock"


def test_a_missing_rate_or_unknown_replicas_change_nothing() -> None:
    one = watcher(APPLY)
    for seen in (Seen(time=NOW, live={"small": 1}), Seen(time=NOW + 60, rate_rps=50.0)):
        assert one.tick(seen).decision.reason == "unknown"


@given(
    rates=st.lists(st.floats(0.0, 80.0), min_size=1, max_size=60),
    live=st.fixed_dictionaries({"small": st.integers(0, 6), "large": st.integers(0, 6)}),
)
@settings(max_examples=15, deadline=None)
def test_no_change_ever_takes_capacity_that_is_asked_for(
    rates: list[float], live: dict[str, int]
) -> None:
    one = watcher(APPLY)
    for tick in followed(one, rates, live):
        found = tick.decision
        if found.target is None or tick.seen.rate_rps is None:
            continue
        target = tuple(found.target.get(name, 0) for name in FLEETS.options)
        assert FLEETS.rate(target) >= min(tick.seen.rate_rps, 70.0) * 0.2 or found.verb == "blocked"
        if found.reason in ("shrink", "replace"):
            assert FLEETS.rate(target) >= tick.entry["forecast"]["high_rps"] * (1 - 1e-5)


def test_a_watcher_that_was_killed_goes_on_from_the_journal() -> None:
    rng = random.Random(3)
    rates = [20 + 12 * ((n // 90) % 2) + rng.uniform(-1, 1) for n in range(400)]
    whole = [t.entry for t in followed(watcher(APPLY), rates, {"large": 3})]
    first = watcher(APPLY)
    halves = [t.entry for t in followed(first, rates[:200], {"large": 3})]
    resumed = watcher(APPLY)
    resumed.resume(halves)
    assert resumed.state == replace(first.state, time=resumed.state.time)
    assert halves == whole[:200]
