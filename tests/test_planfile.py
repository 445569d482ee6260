"""`plan.json` is written and read back without loss, and refuses what is not a plan in one line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from melange_sky.constraints import Constraints, SpotPolicy
from melange_sky.errors import InputError
from melange_sky.names.limits import LimitKey, LimitKind
from melange_sky.planfile import dump_plan, load_plan, parse_plan, plan_document
from melange_sky.plans import Baseline, PlanWarning, SolverReport
from tests import planfuzz
from tests.factories import make_model_plan, make_plan


def test_round_trip_loses_nothing(tmp_path: Path) -> None:
    plan = make_plan()
    (tmp_path / "plan.json").write_text(dump_plan(plan), encoding="utf-8")
    assert load_plan(tmp_path) == plan
    assert load_plan(tmp_path / "plan.json") == plan


def test_a_baseline_that_is_not_known_is_null_in_the_file(tmp_path: Path) -> None:
    late = Baseline(
        accelerator="H100",
        feasible=None,
        reason="unknown: no answer within the time limit of 1 s",
        instances=None,
        cost_usd_per_hour=None,
        saving_fraction=None,
    )
    plan = make_plan(baselines=(late,))
    (tmp_path / "plan.json").write_text(dump_plan(plan), encoding="utf-8")
    assert plan_document(plan)["baselines"][0]["feasible"] is None
    assert load_plan(tmp_path).models[0].baselines == (late,)


def test_listed_models_round_trip(tmp_path: Path) -> None:
    policy = SpotPolicy(interruption_rate=0.05)
    limit = LimitKey(kind=LimitKind.ACCELERATOR, name="A10G")
    own = PlanWarning(code="profile", message="of one model")
    plan = make_plan(
        name="both",
        models=(
            make_model_plan(name="a", spot=policy, warnings=(own,)),
            make_model_plan(name="b", spot=policy),
        ),
        lists_models=True,
        constraints=Constraints(limits=((limit, 3),), spot=policy),
        solver=SolverReport(status="feasible", mip_gap=0.02, solve_seconds=30, solver="highs"),
    )
    (tmp_path / "plan.json").write_text(dump_plan(plan), encoding="utf-8")
    assert load_plan(tmp_path) == plan
    assert plan_document(plan)["cost_usd_per_hour"] == pytest.approx(2 * 6.076)


@pytest.mark.parametrize("lists_models", [False, True])
def test_one_model_keeps_its_form(tmp_path: Path, lists_models: bool) -> None:
    """A spec that lists one model has `models` in its plan; what holds of all stands on top only."""
    plan = make_plan(lists_models=lists_models, constraints=Constraints(spare=1))
    document = plan_document(plan)
    assert ("models" in document) is lists_models
    assert ("workload" in document) is not lists_models
    assert document["constraints"]["spare"] == 1
    if lists_models:
        (model,) = document["models"]
        assert model["constraints"]["spare"] == 0
        assert model["warnings"] == []
        assert [model[key] for key in ("created_at", "headroom", "price_snapshot", "solver")] == [
            plan.created_at,
            plan.headroom,
            plan.price_snapshot,
            plan.solver.solver,
        ]
    (tmp_path / "plan.json").write_text(dump_plan(plan), encoding="utf-8")
    assert load_plan(tmp_path) == plan


def test_document_has_the_fields_that_others_rely_on() -> None:
    document = plan_document(make_plan())
    assert document["status"] == "optimal"
    assert document["slo"] == {"tpot_ms": 60.0, "ttft_ms": 2000.0, "attainment": 0.95}
    first = document["allocations"][0]
    assert first["accelerator"] == "A10G:1"
    assert first["replicas"] == first["instances"] == 1
    assert first["capacity_origin"] == "estimated"
    assert (first["price_source"], first["price_as_of"]) == ("embedded", "2026-09-01")
    assert document["workload"]["rate_rps"] == 3.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected a JSON object"),
        ("{", "is not JSON (JSONDecodeError)"),
        ("{}", "schema_version must be 1"),
        ('{"schema_version": 1}', "name: Field required"),
        ("[" * 100_000, "is not JSON (RecursionError)"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        load_plan(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert message in str(refused.value)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        load_plan(tmp_path / "none.json")


def test_wrong_shapes_and_unknown_options_are_named() -> None:
    document = json.loads(dump_plan(make_plan()))
    document["allocations"][0]["option"] = "other"
    with pytest.raises(InputError, match=r"allocations\.other: is not among the candidates"):
        parse_plan(document, "p")
    document = json.loads(dump_plan(make_plan()))
    document["workload"]["rates_rps"] = [[1.0]]
    with pytest.raises(InputError, match=r"workload\.rates_rps: must have 2 rows of 2 values"):
        parse_plan(document, "p")
    document = json.loads(dump_plan(make_plan()))
    document["allocations"][0]["instances"] = 0
    with pytest.raises(InputError, match=r"allocations\.0\.instances: Input should be greater"):
        parse_plan(document, "p")
    with pytest.raises(InputError, match=r"p: models: List should have at least 1 item"):
        parse_plan(plan_document(make_plan(lists_models=True)) | {"models": []}, "p")


@pytest.mark.timeout(300)
def test_no_mutation_of_a_plan_ends_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m tests.planfuzz 10000` tries more of them."""
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MELANGE_SKY_OFFLINE", "1")
    rng, documents = random.Random(18), planfuzz.seeds()
    for document in documents:
        assert planfuzz.check(document, tmp_path, list(planfuzz.READERS)) is None
    for n in range(1000):
        document, done = planfuzz.mutated(documents[n % 2], rng)
        reader = list(planfuzz.READERS)[n // 2 % len(planfuzz.READERS)]
        failed = planfuzz.check(document, tmp_path, [reader])
        assert failed is None, f"{done}: {failed}"


def nothing_allocated(document: dict[str, Any]) -> None:
    document["allocations"] = []


def a_share_too_many(document: dict[str, Any]) -> None:
    document["allocations"][0]["shares"][0][1] = 0.5


def an_option_twice(document: dict[str, Any]) -> None:
    document["allocations"].append(document["allocations"][0])


def a_candidate_twice(document: dict[str, Any]) -> None:
    document["candidates"].append(document["candidates"][0])


def what_it_cannot_serve(document: dict[str, Any]) -> None:
    document["candidates"][0]["max_rate_rps"][0][0] = None


def not_a_number_as_text(document: dict[str, Any]) -> None:
    document["solve_seconds"] = "NaN"


def a_negative_spare(document: dict[str, Any]) -> None:
    document["constraints"]["spare"] = -1


def a_negative_size(document: dict[str, Any]) -> None:
    document["workload"]["output_sizes"][0][0] = -1e30


def edges_that_fall(document: dict[str, Any]) -> None:
    document["workload"]["input_edges"] = [0, 100, 50]


def no_traffic(document: dict[str, Any]) -> None:
    document["workload"]["rates_rps"] = [[0, 0], [0, 0]]


def too_many_for_any_fleet(document: dict[str, Any]) -> None:
    document["allocations"][0]["instances"] = 10**30


def half_an_emoji(document: dict[str, Any]) -> None:
    document["model"] = "\ud83d"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (nothing_allocated, "allocations: a plan has at least one"),
        (a_share_too_many, "the shares of bucket 0, 1 add up to 1.5, not to 1"),
        (an_option_twice, "allocations.a10g: is there twice"),
        (a_candidate_twice, "candidates.a10g: is there twice"),
        (what_it_cannot_serve, "a10g: serves bucket 0, 0, of which it can serve none"),
        (not_a_number_as_text, "solve_seconds: Input should be a finite number"),
        (a_negative_spare, "constraints.spare: must not be negative"),
        (a_negative_size, "workload.output_sizes.0.0: must not be negative"),
        (edges_that_fall, "workload.input_edges: must be two or more numbers"),
        (no_traffic, "workload.rates_rps: at least one bucket must have a rate"),
        (too_many_for_any_fleet, "allocations.0.instances: "),
        (half_an_emoji, "model: holds half a character, which is no text"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    tmp_path: Path, spoil: Callable[[dict[str, Any]], None], told: str
) -> None:
    document = json.loads(dump_plan(make_plan()))
    spoil(document)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError) as refused:
        load_plan(file)
    assert told in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
