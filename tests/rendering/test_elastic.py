"""Elasticity inside an option: bounds, what they cost, and what SkyServe's own autoscaler makes of them."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan, load_plan
from melange_sky.planner.apply import wanted_of
from melange_sky.planner.scheduling.carrying_out import _with_more
from melange_sky.planner.serving import ServeOptions, plan_and_backends
from melange_sky.plans import Elastic, Plan, cost_range, elastic_bounds
from melange_sky.rendering import file_name, render_services, service_documents
from melange_sky.report.elastic import elastic_text
from melange_sky.skyplugin.guard_settings import GuardSettings
from melange_sky.skyplugin.guarded import Choice, Launch, objection
from melange_sky.skyserve import Action, LiveReplica, LiveService, compare, service_states
from melange_sky.spec import Spec, load_spec
from tests.factories import make_model_plan, make_plan
from tests.rendering.test_sky_accepts import ask_sky

SCALING = Path(__file__).with_name("sky_scaling.py")


def elastic_plan(elastic: Elastic | None, instances: int = 4) -> Plan:
    """Two options at half of their capacity; headroom 0.1."""
    allocations = tuple(
        dataclasses.replace(a, instances=instances, load_fraction=0.5, rate_rps=6.0)
        for a in make_model_plan().allocations
    )
    return dataclasses.replace(make_plan(allocations=allocations), elastic=elastic)


def first_document(plan: Plan) -> dict[str, Any]:
    return next(iter(service_documents(plan).values()))


def test_bounds_of_a_plan_are_known() -> None:
    (first, _) = elastic_plan(None).models[0].allocations
    bounds = elastic_bounds(Elastic(min=0.6, max=1.3), first, 0.1)
    # 6 req/s by four at half their capacity: 3 each, less a tenth.
    assert bounds is not None
    assert (bounds.min_replicas, bounds.max_replicas) == (3, 6)
    assert bounds.target_qps_per_replica == 2.7
    assert elastic_bounds(Elastic(min=0.9, max=1.0), first, 0.1) is None
    full = dataclasses.replace(first, load_fraction=0.98)
    tight = elastic_bounds(Elastic(max=2), full, 0.1)
    assert tight is not None and tight.target_qps_per_replica == 1.5  # what the plan asks of each


@given(
    st.integers(1, 60),
    st.floats(0.01, 1.0),
    st.floats(1.0, 5.0),
    st.floats(1e-3, 1e4),
    st.floats(0.01, 1.2),
    st.floats(0, 0.5),
)
def test_at_its_own_rate_a_plan_takes_no_more_than_it_planned(
    instances: int, low: float, high: float, rate: float, load: float, headroom: float
) -> None:
    (first, _) = make_model_plan().allocations
    one = dataclasses.replace(first, instances=instances, rate_rps=rate, load_fraction=load)
    bounds = elastic_bounds(Elastic(min=low, max=high), one, headroom)
    if bounds is None:
        return
    assert 1 <= bounds.min_replicas <= instances <= bounds.max_replicas
    assert math.ceil(rate / bounds.target_qps_per_replica - 1e-9) <= instances


def test_without_it_nothing_of_a_service_changes_and_with_it_only_its_policy() -> None:
    plain, bounded = (elastic_plan(e) for e in (None, Elastic(min=0.5, max=2)))
    for name, document in service_documents(bounded).items():
        before = service_documents(plain)[name]
        policy = document["service"].pop("replica_policy")
        assert before["service"].pop("replicas") == 4
        assert document == before
        assert policy == {
            "min_replicas": 2,
            "max_replicas": 8,
            "target_qps_per_replica": 2.7,
            "upscale_delay_seconds": 300,
            "downscale_delay_seconds": 1200,
        }


def test_the_cost_is_told_at_both_ends_and_survives_the_file(tmp_path: Path) -> None:
    plan = elastic_plan(Elastic(min=0.5, max=1.25))
    prices = [a.candidate.option.price_usd_per_hour for a in plan.models[0].allocations]
    assert cost_range(plan) == pytest.approx((2 * sum(prices), 5 * sum(prices)))
    document = json.loads(dump_plan(plan))
    told = document["elastic"]
    assert document["cost_usd_per_hour"] == pytest.approx(4 * sum(prices))
    assert told["lowest_usd_per_hour"] == pytest.approx(2 * sum(prices))
    assert [row["max_replicas"] for row in told["options"]] == [5, 5]
    path = tmp_path / "plan.json"
    path.write_text(dump_plan(plan))
    assert load_plan(path).elastic == plan.elastic
    assert json.loads(dump_plan(load_plan(path)))["elastic"] == told
    assert elastic_text(plan).startswith(
        "Elastic: by SkyServe's autoscaler $12.152/h at the least, $30.380/h at the most; a10g 2 to 5 replicas at 2.7"
    )


def test_skyserve_aims_at_the_plan_s_replicas_at_its_rate(tmp_path: Path) -> None:
    plan = elastic_plan(Elastic(min=0.5, max=2, upscale_delay_s=60, downscale_delay_s=600))
    spot = dataclasses.replace(
        plan,
        models=tuple(
            dataclasses.replace(
                m,
                allocations=tuple(
                    dataclasses.replace(
                        a,
                        candidate=dataclasses.replace(
                            a.candidate,
                            option=dataclasses.replace(a.candidate.option, use_spot=True),
                        ),
                    )
                    for a in m.allocations
                ),
            )
            for m in plan.models
        ),
    )
    rates = [0.0, 3.0, 6.0, 9.0, 1000.0]
    asked = {
        f"{kind} {name}": {"text": text, "rates": rates}
        for kind, one in (("on demand", plan), ("spot", spot))
        for name, text in render_services(one).items()
    }
    found = ask_sky(SCALING, tmp_path, asked)
    assert {one["kind"] for one in found.values()} == {
        "RequestRateAutoscaler",
        "FallbackRequestRateAutoscaler",
    }
    for one in found.values():
        assert one["bounds"] == [2, 8] and one["starts_with"] == 2
        assert one["delays_s"] == [60, 600]
        assert one["targets"] == [2, 2, 3, 4, 8]  # ⌈rate ÷ 2.7⌉ within the bounds


def as_live(plan: Plan, ready: int) -> tuple[Any, LiveService]:
    """The first service as wanted, and as SkyServe runs it with so many ready replicas."""
    documents = service_documents(plan)
    wanted = wanted_of(plan, lambda name: (documents[file_name(name)], name))[0]
    replicas = tuple(
        LiveReplica(id=n, status="READY", version=1, endpoint=f"http://n{n}", launched_at_s=0)
        for n in range(ready)
    )
    live = LiveService(
        name=wanted.name,
        status="READY",
        version=1,
        endpoint="http://lb",
        replicas=replicas,
        document=wanted.document,
    )
    return wanted, live


@pytest.mark.parametrize("ready", [2, 5, 8])
def test_whatever_skyserve_runs_within_the_bounds_is_settled(ready: int) -> None:
    wanted, live = as_live(elastic_plan(Elastic(min=0.5, max=2)), ready)
    (change,) = compare([wanted], [live], {wanted.name: live.document}, {})
    assert change.action is Action.KEEP and (change.before, change.after) == (2, 2)
    assert change.reason == "SkyServe's autoscaler adds up to 6: then $8.048/h"
    (state,) = service_states([wanted], [live])
    assert (state.planned, state.most, state.ready) == (2, 8, ready)


def test_a_schedule_that_grows_ahead_moves_both_bounds() -> None:
    wanted, _ = as_live(elastic_plan(Elastic(min=0.5, max=2)), 2)
    more = _with_more(wanted, 3)
    policy = more.document["service"]["replica_policy"]
    assert (policy["min_replicas"], policy["max_replicas"]) == (5, 11)
    assert (more.replicas, more.most) == (5, 11)
    assert wanted.document["service"]["replica_policy"]["min_replicas"] == 2


def test_a_gateway_that_goes_past_skyserve_s_balancers_is_refused() -> None:
    plan = elastic_plan(Elastic(max=2))
    with pytest.raises(InputError, match="--sky: the plan is elastic, and SkyServe scales by"):
        plan_and_backends(plan, ServeOptions(from_sky=True))


@pytest.mark.parametrize(("asked", "refused"), [(8, False), (9, True)])
def test_the_plugin_s_guard_allows_what_the_bounds_allow(asked: int, refused: bool) -> None:
    plan = dataclasses.replace(elastic_plan(Elastic(max=2)), fleet_id="abcdef012345")
    (name, document) = next(iter(service_documents(plan).items()))
    option = plan.models[0].allocations[0].candidate.option
    assert option.offer is not None
    choice = Choice(
        cloud=option.offer.cloud,
        region=option.offer.region,
        instance_type=option.offer.instance_type,
        accelerators={option.accelerator: option.accelerator_count},
        use_spot=False,
        usd_per_hour=option.price_usd_per_hour,
        source="test",
    )
    mark = document["_metadata"]["melange_sky"]
    launch = Launch(name=name, mark=mark, replicas=asked, nodes=1, choices=(choice,))
    now = datetime(2026, 9, 2, tzinfo=timezone.utc)
    found = objection(launch, [plan], GuardSettings(), now)
    assert (found is not None and "allows $8.05/h" in found) is refused, found
    assert refused or found is None


SPEC: dict[str, Any] = {
    "name": "chat",
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "slo": {"tpot_ms": 60},
    "workload": {"rate_rps": 1, "input_tokens": 100, "output_tokens": 10},
}


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"elastic": {}}, "elastic: needs min below 1 or max above 1: the planned replicas are 1"),
        ({"elastic": {"min": 0}}, "elastic.min: must be greater than 0"),
        ({"elastic": {"max": 0.5}}, "elastic.max: must be at least 1"),
        ({"elastic": {"mx": 2}}, "elastic.mx: unknown key 'mx' (did you mean 'max'?)"),
        (
            {"elastic": {"max": 2}, "resources": {"limits": {"A10G": 4}}},
            (
                "elastic.max: more than planned could break resources.limits, which SkyServe's autoscaler knows nothing of; "
                "leave one of the two out"
            ),
        ),
        (
            {"elastic": {"max": 2}, "resources": {"budget_usd_per_hour": 9}},
            (
                "elastic.max: more than planned could break resources.budget_usd_per_hour, which SkyServe's autoscaler "
                "knows nothing of; leave one of the two out"
            ),
        ),
        (
            {"elastic": {"min": 0.5}, "redundancy": {"spare": 1}},
            "elastic.min: fewer than planned would break redundancy.spare; leave one of the two out",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(
    sections: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**SPEC, **sections}))
    with pytest.raises(InputError) as error:
        load_spec(path)
    (line,) = str(error.value).splitlines()
    assert line.endswith(problem) and line.startswith(f"{path}:")


def test_a_spec_says_how_far(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**SPEC, "elastic": {"min": 0.5, "upscale_delay_s": 60}}))
    spec = load_spec(path)
    assert isinstance(spec, Spec) and spec.elastic == Elastic(min=0.5, upscale_delay_s=60)
    assert "replicas" in first_document(elastic_plan(None))["service"]
