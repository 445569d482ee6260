"""What the guard says of a launch, in its very words, and what it lets pass."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from melange_sky.errors import InputError
from melange_sky.plans import Elastic, GuardRails, Plan
from melange_sky.skyplugin.guard_settings import (
    GUARD_CLASS,
    SCHEMA,
    GuardSettings,
    read_guard,
    users_policy,
)
from melange_sky.skyplugin.guarded import Choice, Launch, doubt, mode_of, objection
from tests.factories import make_offer, make_plan

NOW = datetime(2026, 9, 11, tzinfo=timezone.utc)
ID = "0123456789ab"
MARK = {"plan": "chat", "option": "a10g", "id": ID}
NONE = GuardSettings()


def plan(**over: Any) -> Plan:
    """Two instances of g5.xlarge at $1.006/h for the option a10g, besides one of another."""
    made = make_plan(fleet_id=ID, **over)
    (model,) = made.models
    small, large = model.allocations
    allocations = (replace(small, instances=2), large)
    return replace(made, models=(replace(model, allocations=allocations),))


def choice(**over: Any) -> Choice:
    values: dict[str, Any] = {
        "cloud": "aws",
        "region": "us-east-1",
        "instance_type": "g5.xlarge",
        "accelerators": {"A10G": 1},
        "use_spot": False,
        "usd_per_hour": 1.006,
        "source": "SkyPilot's catalog",
    }
    return Choice(**(values | over))


def launch(*choices: Choice, **over: Any) -> Launch:
    values: dict[str, Any] = {"name": "chat-a10g", "mark": MARK, "replicas": 2, "nodes": 1}
    return Launch(choices=choices or (choice(),), **(values | over))


def said(one: Launch, limits: GuardSettings = NONE, *plans: Plan) -> str | None:
    return objection(one, plans or (plan(),), limits, NOW)


def test_a_service_as_planned_passes() -> None:
    assert said(launch()) is None
    assert said(launch(replicas=1)) is None  # fewer cost less
    assert said(launch(choice(region=None))) is None
    assert said(launch(choice(instance_type=None, accelerators={"a10g": 1.0}))) is None
    assert said(launch(choice(usd_per_hour=1.01))) is None  # catalogs round
    assert said(launch(choice(usd_per_hour=None))) is None  # nobody knows


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (
            launch(choice(usd_per_hour=1.624)),
            "chat-a10g would cost $3.25/h (2 × $1.624, SkyPilot's catalog), and the plan 'chat' allows $2.01/h for it",
        ),
        (
            launch(replicas=3),
            "chat-a10g would cost $3.02/h (3 × $1.006, SkyPilot's catalog), and the plan 'chat' allows $2.01/h for it",
        ),
        (
            launch(nodes=2),
            "chat-a10g would cost $4.02/h (4 × $1.006, SkyPilot's catalog), and the plan 'chat' allows $2.01/h for it",
        ),
        (
            launch(choice(), choice(instance_type="g5.12xlarge", accelerators={"A10G": 4})),
            (
                "chat-a10g may run on g5.12xlarge (A10G:4) on aws/us-east-1, and the plan 'chat' has A10G:1 of "
                "aws/us-east-1 g5.xlarge for it"
            ),
        ),
        (
            launch(choice(use_spot=True)),
            (
                "chat-a10g may run on spot g5.xlarge (A10G:1) on aws/us-east-1, and the plan 'chat' has A10G:1 of "
                "aws/us-east-1 g5.xlarge for it"
            ),
        ),
        (
            launch(choice(cloud=None, region=None, instance_type=None)),
            "chat-a10g may run on (A10G:1), and the plan 'chat' has A10G:1 of aws/us-east-1 g5.xlarge for it",
        ),
        (
            launch(choice(accelerators={}, instance_type=None)),
            (
                "chat-a10g may run on a machine without GPUs on aws/us-east-1, and the plan 'chat' has A10G:1 of "
                "aws/us-east-1 g5.xlarge for it"
            ),
        ),
        (
            launch(mark={**MARK, "option": "gone"}),
            "chat-a10g: the option 'gone' is not in the plan 'chat' any more",
        ),
    ],
)
def test_a_planned_service_is_held_to_its_plan(one: Launch, sentence: str) -> None:
    assert said(one) == sentence


def test_replicas_that_skyserve_may_move_are_the_plans_up_to_its_bound() -> None:
    moved = replace(plan(), elastic=Elastic(min=0.5, max=2.0))  # 1 to 4 of the two
    assert said(launch(replicas=4), NONE, moved) is None
    assert "allows $4.02/h for it" in (said(launch(replicas=5), NONE, moved) or "")


def test_prices_that_are_too_old_are_told() -> None:
    week = GuardSettings(max_price_age_days=7)
    assert said(launch(), week) == (
        "chat-a10g: the price of g5.xlarge in the plan 'chat' was last known true 10 days ago, and 7 are allowed; "
        "plan again"
    )
    assert said(launch(), GuardSettings(max_price_age_days=10)) is None
    undated = plan()
    (model,) = undated.models
    first = model.allocations[0]
    option = replace(first.candidate.option, offer=make_offer(as_of=None))
    first = replace(first, candidate=replace(first.candidate, option=option))
    undated = replace(undated, models=(replace(model, allocations=(first,)),))
    assert said(launch(), week, undated) == (
        "chat-a10g: nobody knows how old the plan's price of g5.xlarge is"
    )


def test_another_region_of_the_plan_is_held_to_its_own_price() -> None:
    made = plan()
    (model,) = made.models
    small, large = model.allocations
    other = make_offer(region="us-west-2", price_usd_per_hour=1.2)
    option = replace(small.candidate.option, fallbacks=(other,))
    small = replace(small, candidate=replace(small.candidate, option=option))
    made = replace(made, models=(replace(model, allocations=(small, large)),))
    there = choice(region="us-west-2", usd_per_hour=1.2)
    assert said(launch(there), NONE, made) is None
    dear = choice(usd_per_hour=1.2)
    assert "allows $2.01/h" in (said(launch(dear), NONE, made) or "")


def test_what_no_plan_here_made_is_held_to_the_limits_alone() -> None:
    anything = choice(instance_type="p5.48xlarge", accelerators={"H100": 8}, usd_per_hour=55.04)
    for mark in (None, {**MARK, "id": "ffffffffffff"}):
        free = launch(anything, mark=mark, name="train", replicas=1, nodes=2)
        assert said(free) is None
        assert said(free, GuardSettings(max_usd_per_hour=120)) is None
        assert said(free, GuardSettings(max_usd_per_hour=100)) == (
            "train would cost $110.08/h (2 × $55.040 for p5.48xlarge (H100:8) on aws/us-east-1, SkyPilot's catalog), "
            "and 100 are allowed"
        )


def test_a_tasks_own_limit_is_kept_where_skypilot_does_not() -> None:
    own = launch(choice(most_usd_per_hour=1.0), mark=None, name="train", replicas=1)
    assert said(own) == (
        "train: g5.xlarge (A10G:1) on aws/us-east-1 costs $1.006/h (SkyPilot's catalog), more than the task's own "
        "max_hourly_cost of 1, which SkyPilot does not heed here"
    )
    assert said(launch(choice(most_usd_per_hour=1.1), mark=None)) is None


def test_a_price_that_nobody_knows_is_told_where_something_is_held_against_it() -> None:
    limit = GuardSettings(max_usd_per_hour=4)
    unknown = choice(usd_per_hour=None)
    planned, other = launch(unknown), launch(unknown, mark=None)
    told = (
        "chat-a10g: nobody knows what g5.xlarge (A10G:1) on aws/us-east-1 costs, so it passes without a look at its "
        "price; SkyPilot's catalog has no price for it"
    )
    assert doubt(planned, [plan()], NONE) == doubt(other, [], limit) == told
    assert (
        doubt(launch(choice(usd_per_hour=None, most_usd_per_hour=1), mark=None), [], NONE) == told
    )
    assert doubt(other, [plan()], NONE) is None  # nothing is held against it
    assert doubt(launch(mark={**MARK, "id": "f" * 12}), [plan()], NONE) is None
    assert doubt(launch(), [plan()], limit) is None
    assert doubt(launch(choice(usd_per_hour=None, is_offered=False)), [plan()], limit) is None


def test_ones_own_hardware_is_the_plans_whatever_its_instance_type_is_called() -> None:
    row = make_offer(cloud="kubernetes", region="", instance_type="l4-1", accelerator="L4")
    one = choice(cloud="kubernetes", region="ours", accelerators={"L4": 1}, instance_type=None)
    assert one.may_be(row)
    assert replace(one, instance_type="4CPU--16GB--L4:1").may_be(row)
    assert one.may_be(replace(row, region="ours")) and not one.may_be(replace(row, region="its"))
    assert not one.may_be(replace(row, accelerator_count=2))
    assert not one.may_be(replace(row, cloud="slurm"))


def guard(**keys: Any) -> dict[str, Any]:
    return {"plugins": {"melange": {"guard": keys}}}


def test_the_keys_are_read_and_off_is_what_yaml_makes_of_it() -> None:
    assert read_guard({}) == GuardSettings(launch="warn")
    assert read_guard(guard(launch=False)).launch == "off"
    assert read_guard(
        guard(launch="refuse", max_price_age_days=7, max_usd_per_hour=40, policy="a.B")
    ) == GuardSettings(launch="refuse", max_price_age_days=7.0, max_usd_per_hour=40.0, policy="a.B")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"launch": "stop"},
            "plugins.melange.guard.launch: 'stop' is none of off, warn, refuse",
        ),
        (
            {"max_usd_per_hour": 0},
            "plugins.melange.guard.max_usd_per_hour: '0' is not a number above 0",
        ),
        (
            {"max_price_age_days": True},
            "plugins.melange.guard.max_price_age_days: 'True' is not a number above 0",
        ),
    ],
)
def test_a_key_that_cannot_be_read_is_told_and_the_own_policy_stays(
    keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        read_guard(guard(**keys))
    assert str(error.value) == message
    assert users_policy(guard(**keys, policy="a.B")) == "a.B"


def test_the_guard_is_never_its_own_policy() -> None:
    assert users_policy(guard(policy=GUARD_CLASS)) is None


@pytest.mark.parametrize(
    ("keys", "holds"),
    [
        ({}, True),
        ({"launch": False, "policy": "a.B"}, True),
        ({"launch": "refuse", "max_usd_per_hour": 1.5, "max_price_age_days": 1}, True),
        ({"launch": "stop"}, False),
        ({"lunch": "warn"}, False),
        ({"max_usd_per_hour": 0}, False),
    ],
)
def test_skypilot_checks_the_keys_by_the_same_rules(keys: dict[str, Any], holds: bool) -> None:
    import jsonschema

    valid = jsonschema.Draft7Validator(SCHEMA).is_valid({"guard": keys})
    assert valid == holds


def test_a_fleet_that_changes_by_the_hour_is_held_to_the_plan_that_allows_it() -> None:
    night, day = plan(), plan()
    (model,) = day.models
    more = replace(model.allocations[0], instances=5)
    day = replace(day, models=(replace(model, allocations=(more,)),))
    assert said(launch(replicas=5), NONE, night, day) is None
    assert said(launch(replicas=6), NONE, night, day) is not None
    gone = launch(mark={**MARK, "option": "a100"}, replicas=1)
    assert "has A100-80GB:1" in (said(gone, NONE, day, night) or "")


@pytest.mark.parametrize(
    ("config", "planned", "mode"),
    [
        ("warn", (None,), "warn"),
        ("warn", ("refuse",), "refuse"),
        ("off", ("warn",), "warn"),
        ("refuse", ("off",), "off"),
        ("warn", ("off", "refuse", None), "refuse"),
    ],
)
def test_a_plans_own_word_on_launches_goes_before_the_servers(
    config: Any, planned: tuple[str | None, ...], mode: str
) -> None:
    plans = [plan(guard=GuardRails(launch=word)) for word in planned]
    assert mode_of(launch(), plans, GuardSettings(launch=config)) == mode
    for other in (launch(mark=None), launch(mark={**MARK, "id": "ba9876543210"})):
        assert mode_of(other, plans, GuardSettings(launch=config)) == config
