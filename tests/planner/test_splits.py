"""Replicas over several instances and other splits in a plan: what they cost, count and say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from melange_sky.constraints import Constraints, InstanceGroup, SpotPolicy
from melange_sky.models import find_model
from melange_sky.names.limits import LimitKey
from melange_sky.optimizer import Demand, Problem, optimize
from melange_sky.planner.instance_splits import SplitRules
from melange_sky.planner.notes import split_notes
from melange_sky.planner.options import OfferRules, build_options, usable_offers
from melange_sky.planner.replay_loop.replay import engine_of
from melange_sky.planner.reprice import reprice
from melange_sky.plans import Allocation, ModelPlan
from melange_sky.profiles import CapacityQuery
from melange_sky.replay import Replay, Traffic, replay, sample_stream
from melange_sky.replay.run import fleet_options, interruptions_per_hour
from melange_sky.report.plan_table import plan_table
from melange_sky.slo import SLO, meets
from melange_sky.spec import Resources
from tests.factories import (
    make_capacity,
    make_engine,
    make_model_plan,
    make_offer,
    make_option,
    make_plan,
    make_workload,
)

P5 = make_offer(
    instance_type="p5.48xlarge", accelerator="H100", accelerator_count=8, price_usd_per_hour=55.04
)
DEEPSEEK, LLAMA_8B = (
    find_model(name) for name in ("deepseek-ai/DeepSeek-V3", "meta-llama/Llama-3.1-8B-Instruct")
)
TWO = make_engine(tensor_parallel=8, pipeline_parallel=2, nodes=2)


def query(model=DEEPSEEK) -> CapacityQuery:
    return CapacityQuery(
        model=model,
        slo=SLO(tpot_s=0.08, ttft_s=4.0),
        input_sizes=((1000.0,),),
        output_sizes=((200.0,),),
        longest_request_tokens=8000,
    )


def options(model=DEEPSEEK, nodes=1, offers=(P5,)):
    planned, _ = usable_offers(offers, Resources(), OfferRules())
    built = build_options(planned, query(model), SplitRules(nodes=nodes))
    return built.options, built.warnings


def test_a_model_too_large_for_an_instance_names_the_key_that_plans_it() -> None:
    found, warnings = options()
    assert found == ()
    (told,) = (w.message for w in warnings if w.code == "does-not-fit")
    assert "16 × H100" in told
    assert told.endswith("; resources.max_nodes_per_replica: 2 plans it over 2 instances of H100:8")


def test_with_the_key_a_replica_takes_and_costs_several_instances() -> None:
    found, _ = options(nodes=2)
    assert found
    for capacity in found:
        option = capacity.option
        assert option.nodes == 2 and option.gpus == 16
        assert option.engine is not None and option.engine.split.gpus == 16
        assert option.price_usd_per_hour == pytest.approx(2 * 55.04)
        assert option.price_in(P5) == option.price_usd_per_hour
        assert option.name.endswith("-2nodes") and option.accelerators == "2 nodes of H100:8"
    assert len({c.option.name for c in found}) == len(found)
    # a model that one instance holds is not spread over more
    assert {c.option.nodes for c in options(LLAMA_8B, nodes=2)[0]} == {1}


def test_limits_count_every_instance_and_gpu_of_a_replica() -> None:
    option = make_option(accelerator="H100", accelerator_count=8, offer=P5, engine=TWO)
    units = {
        key: option.units(LimitKey.of(key))
        for key in ("H100", "aws", "aws/us-east-1", "p5.48xlarge", "gcp", "L4")
    }
    assert units == {
        "H100": 16,
        "aws": 2,
        "aws/us-east-1": 2,
        "p5.48xlarge": 2,
        "gcp": 0,
        "L4": 0,
    }


@pytest.mark.parametrize(
    ("paid", "needed", "cost"), [(1, 1, 55.04), (2, 1, 0.0), (3, 2, 55.04), (9, 1, 0.0)]
)
def test_what_is_paid_for_pays_for_single_instances_of_replicas(
    paid: int, needed: int, cost: float
) -> None:
    option = make_option(
        accelerator="H100", accelerator_count=8, offer=P5, engine=TWO, price_usd_per_hour=110.08
    )
    demand = Demand(
        name="m",
        workload=make_workload([[4.0 * needed]]),
        options=(make_capacity([[4.0]], option),),
    )
    group = InstanceGroup(accelerator="H100", instances=paid, accelerator_count=8)
    fleet = optimize(Problem(demands=(demand,), constraints=Constraints(fixed=(group,))))
    ((allocation,),) = fleet.allocations
    assert allocation.instances == needed
    assert allocation.fixed_instances == min(paid, 2 * needed)
    assert fleet.cost_usd_per_hour == allocation.cost_usd_per_hour == pytest.approx(cost)
    model = plan_of(option, allocations=(allocation,))
    plan = dataclasses.replace(make_plan(), models=(model,))
    assert reprice(plan, [P5]).now_usd_per_hour == pytest.approx(cost)
    text = plan_table(plan)
    assert f"{min(paid, 2 * needed)} of {2 * needed} × H100:8" in " ".join(text.split())


@pytest.mark.parametrize(("asked", "replicas"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_a_minimum_counts_the_instances_of_replicas(asked: int, replicas: int) -> None:
    option = make_option(accelerator="H100", accelerator_count=8, offer=P5, engine=TWO)
    demand = Demand(
        name="m", workload=make_workload([[1.0]]), options=(make_capacity([[4.0]], option),)
    )
    group = InstanceGroup(accelerator="H100", instances=asked, accelerator_count=8)
    fleet = optimize(Problem(demands=(demand,), constraints=Constraints(minimum=(group,))))
    assert [a.instances for a in fleet.allocations[0]] == [replicas]


def plan_of(option, **over) -> ModelPlan:
    capacity = make_capacity([[4.0]], option)
    allocation = Allocation(
        candidate=capacity, instances=1, load_fraction=0.5, rate_rps=1.0, shares=((1.0,),)
    )
    values = {
        "allocations": (allocation,),
        "candidates": (capacity,),
        "workload": make_workload([[1.0]]),
    }
    return make_model_plan(**(values | over))


def test_new_prices_are_those_of_all_instances() -> None:
    option = make_option(
        accelerator="H100", accelerator_count=8, offer=P5, engine=TWO, price_usd_per_hour=110.08
    )
    model = plan_of(option)
    plan = dataclasses.replace(make_plan(), models=(model,))
    assert reprice(plan, [P5]).now_usd_per_hour == pytest.approx(110.08)
    dearer = dataclasses.replace(P5, price_usd_per_hour=60.0)
    assert reprice(plan, [dearer]).now_usd_per_hour == pytest.approx(120.0)


def test_a_replica_is_lost_with_any_of_its_spot_instances() -> None:
    policy = SpotPolicy(interruption_rate=2.0, recovery_s=360.0)
    assert policy.availability_fraction() == pytest.approx(1 / 1.2)
    assert policy.availability_fraction(3) == pytest.approx(1 / 1.6)
    option = make_option(engine=TWO, use_spot=True)
    plan = plan_of(option, spot=policy)
    assert interruptions_per_hour(plan, plan.allocations[0]) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (make_engine(tensor_parallel=8), None),
        (make_engine(data_parallel=8), None),
        (make_engine(tensor_parallel=2, pipeline_parallel=4), "pipeline stages"),
        (make_engine(data_parallel=8, expert_parallel=True), "spread experts"),
        (TWO, "6 GB/s between them"),
    ],
)
def test_what_rests_on_assumptions_is_said_of_chosen_options(engine, words) -> None:
    option = make_option(accelerator="H100", accelerator_count=8, offer=P5, engine=engine)
    notes = split_notes(plan_of(option).allocations)
    assert len(notes) == (words is not None)
    for note in notes:
        assert note.code == "assumed-split" and words in note.message
        assert "not from measured runs" in note.message


@pytest.mark.parametrize(
    ("engine", "engines", "sequences"),
    [
        (make_engine(data_parallel=4, max_num_seqs=64), 4, 64),
        (make_engine(tensor_parallel=2, pipeline_parallel=4, max_num_seqs=64), 4, 16),
        (make_engine(pipeline_parallel=2, data_parallel=2, max_num_seqs=64), 4, 32),
    ],
)
def test_replay_runs_as_many_engines_as_are_planned(engine, engines, sequences) -> None:
    option = make_option(accelerator="H100", accelerator_count=8, offer=P5, engine=engine)
    (fleet,) = fleet_options(plan_of(option), engine_of)
    assert fleet.engines_per_replica == engines
    assert fleet.engine.max_num_seqs == sequences


@pytest.mark.parametrize("copies", [1, 4])
def test_copies_hold_as_many_times_the_rate_of_one_by_replay(copies: int) -> None:
    """The fleet itself, request by request: the SLO holds just below d times the rate, not far above."""
    found, _ = options(LLAMA_8B, offers=[dataclasses.replace(P5, accelerator_count=copies)])
    capacity = next(c for c in found if c.option.engine and c.option.engine.data_parallel == copies)
    rate = capacity.cells[0][0].max_rate_rps
    assert rate is not None

    def attained(times: float) -> float:
        workload = make_workload(
            [[times * rate]],
            input_sizes=((1000.0,),),
            output_sizes=((200.0,),),
            input_edges=(0, 2000),
            output_edges=(0, 400),
        )
        plan = plan_of(capacity.option, workload=workload, model_shape=LLAMA_8B)
        sampled = sample_stream(workload, Traffic(duration_s=60), np.random.default_rng(1))
        stream = dataclasses.replace(
            sampled,
            input_tokens=np.full(len(sampled), 1000),
            output_tokens=np.full(len(sampled), 200),
        )
        log = replay(plan, engine_of, stream, Replay(policy="least_load")).log
        return float(meets(log, query().slo).mean())

    assert attained(0.9) >= 0.95
    assert attained(1.6) < 0.95
