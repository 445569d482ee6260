"""`reserve` under the spec's rules: every period's plan keeps them, by hand and by the planner's own checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import melange_sky
from melange_sky.errors import InputError
from melange_sky.optimizer import SolveOptions, problem_of
from melange_sky.optimizer.search.levels import checked_levels
from melange_sky.optimizer.search.loss_scenarios import worst_loss
from melange_sky.planfile import load_plan
from melange_sky.plans import Plan
from tests.cli.test_reserve_command import (
    PRICES,
    SPEC,
    folder,  # noqa: F401
    write_demand,
    write_offers,
    write_terms,
)

RATES = [1.0, 3.0, 6.0, 2.0]


def ruled(
    here: Path, *, resources: dict[str, Any] | None = None, terms: bool = True, **spec: Any
) -> tuple[dict[str, Any], list[Plan]]:
    """The answer and its plans for the spec with other parts."""
    text = {**SPEC, **spec, "resources": {**SPEC["resources"], **(resources or {})}}
    found = melange_sky.reservation(
        text,
        demand=write_demand(here, RATES),
        commitments=write_terms(here, {"g6.xlarge": 0.5, "g5.xlarge": 0.62}) if terms else None,
        offline=True,
        stale_ok=True,
        verify=False,
    )
    return found.document, [fleet.plan for fleet in found.fleets if fleet.plan]


def counts(plan: Plan) -> dict[str, int]:
    return {
        f"{a.candidate.option.offer.instance_type}{'+spot' if a.candidate.option.use_spot else ''}": a.instances
        for a in plan.models[0].allocations
        if a.candidate.option.offer
    }


def survives(plan: Plan) -> bool:
    """Whether the planner finds no loss that the fleet does not survive."""
    for form in checked_levels(problem_of(plan), SolveOptions().deadline):
        running = {a.candidate.option.name: a.instances for a in plan.models[0].allocations}
        each = [running.get(column.name, 0) for column in form.canonical.columns]
        if worst_loss(form.canonical, form.problem, SolveOptions(), each) is None:
            return True
    return False


def test_limits_bound_what_runs_committed_or_rented(folder: Path) -> None:  # noqa: F811
    free, plans = ruled(folder)
    most = max(counts(plan).get("g5.xlarge", 0) for plan in plans)
    assert most > 1
    document, plans = ruled(folder, resources={"limits": {"A10G": most - 1}})
    assert all(counts(plan).get("g5.xlarge", 0) < most for plan in plans)
    assert document["totals"]["chosen_usd"] >= free["totals"]["chosen_usd"]
    assert document["gap"] == 0
    assert plans[0].constraints.limits


def test_spare_instances_and_a_floor_are_there_in_every_hour(folder: Path) -> None:  # noqa: F811
    document, plans = ruled(folder, redundancy={"spare": 1, "min_replicas": 3})
    assert len({hour for period in document["periods"] for hour in period["hours"]}) == len(RATES)
    for plan in plans:
        assert sum(counts(plan).values()) >= 3
        assert survives(plan)


def test_option_types_are_counted_in_every_hour(folder: Path) -> None:  # noqa: F811
    _, plans = ruled(folder, resources={"min_option_types": 2})
    assert all(len(counts(plan)) >= 2 for plan in plans)
    _, plans = ruled(folder, resources={"max_option_types": 1})
    assert all(len(counts(plan)) == 1 for plan in plans)


def test_spot_is_rented_and_never_committed(folder: Path) -> None:  # noqa: F811
    header = "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour,spot_usd_per_hour"
    rows = [
        f"aws,us-east-1,{name},{gpu},1,{PRICES[name]},{0.4 * PRICES[name]}"
        for name, gpu in (("g6.xlarge", "L4"), ("g5.xlarge", "A10G"))
    ]
    (folder / "offers.csv").write_text("\n".join((header, *rows)) + "\n")
    document, plans = ruled(folder, resources={"spot": {"max_fraction": 0.5}})
    kinds = {kind for plan in plans for kind in counts(plan)}
    assert any(kind.endswith("+spot") for kind in kinds)
    for plan in plans:
        model = plan.models[0]
        spot = sum(a.rate_rps for a in model.allocations if a.candidate.option.use_spot)
        assert spot <= 0.5 * model.workload.rate_rps * (1 + 1e-6)
        assert not any(a.fixed_instances for a in model.allocations if a.candidate.option.use_spot)
    assert {one["instance_type"] for one in document["commitments"]} <= set(PRICES)
    assert any("spot" in line["what"] for line in document["prices"])


def test_fixed_instances_are_owned_until_the_end(folder: Path) -> None:  # noqa: F811
    write_offers(folder, {"g5.xlarge": 1.0, "g6.xlarge": 50.0})
    group = {"accelerators": "A10G:1", "instances": 1, "infra": "aws"}
    document, _ = ruled(folder, resources={"fixed": [group]}, terms=False)
    assert [(one["instance_type"], one["count"]) for one in document["owned"]] == [("g5.xlarge", 1)]
    owned = {h: one["owned"] for p in document["periods"] for one in p["fleet"] for h in p["hours"]}
    assert set(owned.values()) == {1}


def test_a_rule_that_does_not_bind_changes_nothing(folder: Path) -> None:  # noqa: F811
    free, _ = ruled(folder)
    loose, _ = ruled(folder, resources={"limits": {"L4": 99, "aws": 99}, "max_option_types": 9})
    for key in (
        "chosen_usd",
        "all_on_demand_usd",
        "commit_peak_usd",
        "bound_usd",
        "best_single_usd",
    ):
        assert loose["totals"][key] == pytest.approx(free["totals"][key], rel=1e-6), key


def test_hours_without_traffic_are_told_of(folder: Path) -> None:  # noqa: F811
    text = {**SPEC, "redundancy": {"min_replicas": 2}}
    found = melange_sky.reservation(
        text, demand=write_demand(folder, [0.0, 1.0]), offline=True, stale_ok=True, verify=False
    )
    assert any("hours without traffic" in note for note in found.document["notes"])
    assert found.document["periods"][0]["fleet"] == []


def test_plans_of_a_folder_keep_their_rules_when_read_again(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    found = melange_sky.reservation(
        {**SPEC, "redundancy": {"spare": 1}},
        demand=write_demand(folder, RATES),
        commitments=write_terms(folder, {"g6.xlarge": 0.5}),
        offline=True,
        stale_ok=True,
        verify=False,
    )
    found.write(tmp_path / "out")
    for file in sorted((tmp_path / "out").glob("fleet-*.json")):
        plan = load_plan(file)
        assert plan.constraints.spare == 1 and survives(plan)


MODELS: dict[str, Any] = {
    "name": "both",
    "models": [
        {
            "name": "chat",
            **{key: SPEC[key] for key in ("model", "slo")},
            "workload": SPEC["workload"],
        },
        {
            "name": "code",
            **{key: SPEC[key] for key in ("model", "slo")},
            "workload": {
                "rate_rps": 2,
                "histogram": {"input_edges": [0, 2000], "output_edges": [0, 100], "weights": [[1]]},
            },
        },
    ],
    "resources": SPEC["resources"],
    "offers": "offers.csv",
}


def several(here: Path, rates: list[float], **more: Any) -> Any:
    """The answer for two models, 4 to 1 by their rates."""
    return reserved(here, write_demand(here, rates), **more)


def reserved(here: Path, demand: Any, **more: Any) -> Any:
    """The answer for two models and a demand."""
    return melange_sky.reservation(
        {**MODELS, **more.pop("spec", {})},
        demand=demand,
        commitments=write_terms(here, {"g6.xlarge": 0.5, "g5.xlarge": 0.62}),
        offline=True,
        stale_ok=True,
        verify=more.pop("verify", False),
        **more,
    )


def test_several_models_share_terms_and_limits(folder: Path) -> None:  # noqa: F811
    rates = [2.0, 5.0, 9.0]
    found = several(folder, rates)
    document = found.document
    assert [(m["name"], m["mean_rps"]) for m in document["models"]] == [
        ("chat", pytest.approx(0.8 * sum(rates) / 3)),
        ("code", pytest.approx(0.2 * sum(rates) / 3)),
    ]
    assert document["slo"] is None
    alone = []
    for served, part in zip(MODELS["models"], (0.8, 0.2), strict=True):
        own = {**SPEC, "workload": served["workload"]}
        alone.append(
            melange_sky.reservation(
                own,
                demand=write_demand(folder, [part * rate for rate in rates]),
                commitments="terms.csv",
                offline=True,
                stale_ok=True,
                verify=False,
            ).document
        )
    # a term may serve either model, and so no dearer than each with terms of its own
    for key in ("chosen_usd", "all_on_demand_usd"):
        together, apart = document["totals"][key], sum(one["totals"][key] for one in alone)
        assert together <= apart * (1 + 1e-6), key
    on_demand = [one["totals"]["all_on_demand_usd"] for one in alone]
    assert document["totals"]["all_on_demand_usd"] == pytest.approx(sum(on_demand), rel=1e-6)
    for period in document["periods"]:
        assert {one["model"] for one in period["fleet"]} == {"chat", "code"}
    for fleet in found.fleets:
        models = {m.name: m.workload.rate_rps for m in fleet.plan.models}
        assert models["chat"] == pytest.approx(4 * models["code"])
    most = max(a10gs(fleet.plan) for fleet in found.fleets)
    assert most > 1
    bound = several(
        folder, rates, spec={"resources": {**SPEC["resources"], "limits": {"A10G": most - 1}}}
    )
    assert all(a10gs(fleet.plan) < most for fleet in bound.fleets)
    assert bound.document["totals"]["chosen_usd"] >= document["totals"]["chosen_usd"] * (1 - 1e-9)


def a10gs(plan: Plan) -> int:
    """Instances of one accelerator over all models."""
    return sum(
        a.instances
        for model in plan.models
        for a in model.allocations
        if a.candidate.option.accelerator == "A10G"
    )


def test_several_models_are_replayed_each_against_its_own_limits(folder: Path) -> None:  # noqa: F811
    found = several(folder, [2.0, 4.0], verify=True)
    judged = found.document["verification"]
    assert [one["name"] for one in judged["models"]] == ["chat", "code"]
    assert judged["attainment"] == min(
        (one["attainment"] for one in judged["models"]),
        key=lambda a: abs(a - judged["attainment"]),
    )
    assert all(m.verification for fleet in found.fleets for m in fleet.plan.models)
    assert all(one["target"] == 0.95 for one in judged["models"])


def test_what_several_models_cannot_have_is_one_line(folder: Path) -> None:  # noqa: F811
    (folder / "mixed.csv").write_text(
        "time,rate_rps,mix\n2026-11-02T00:00:00Z,1,day\n2026-11-02T01:00:00Z,1,day\n"
    )
    lines = [f"{second},200,100" for second in range(200)]
    (folder / "day.csv").write_text("\n".join(("arrival_s,input_tokens,output_tokens", *lines)))
    with pytest.raises(InputError, match="models: mixes of sizes are of one model"):
        melange_sky.reservation(
            MODELS, demand="mixed.csv", mix=["day=day.csv"], offline=True, stale_ok=True
        )


def by_model(here: Path, chat: list[float], code: list[float], **more: Any) -> Any:
    """The answer for a demand that states both models' rates."""
    lines = [
        f"2026-11-02T{hour:02d}:00:00Z,{a},{b}"
        for hour, (a, b) in enumerate(zip(chat, code, strict=True))
    ]
    (here / "models.csv").write_text("\n".join(("time,rate_rps:chat,rate_rps:code", *lines)))
    return reserved(here, "models.csv", **more)


def test_rates_of_each_model_in_one_proportion_are_their_total(folder: Path) -> None:  # noqa: F811
    rates = [2.0, 5.0, 9.0]
    total = several(folder, rates).document["totals"]
    found = by_model(folder, [0.8 * r for r in rates], [0.2 * r for r in rates]).document["totals"]
    for key in ("chosen_usd", "all_on_demand_usd", "commit_peak_usd", "bound_usd"):
        assert found[key] == pytest.approx(total[key], rel=1e-6), key


def test_models_that_peak_at_other_hours_share_what_is_committed(folder: Path) -> None:  # noqa: F811
    chat, code = [8.0, 8.0, 2.0, 2.0], [0.5, 0.5, 4.0, 4.0]
    found = by_model(folder, chat, code, verify=True)
    document, alone = found.document, []
    assert [m["rates_rps"] for m in document["models"]] == [
        pytest.approx(chat),
        pytest.approx(code),
    ]
    for served, rates in zip(MODELS["models"], (chat, code), strict=True):
        alone.append(
            melange_sky.reservation(
                {**SPEC, "workload": served["workload"]},
                demand=write_demand(folder, rates),
                commitments="terms.csv",
                offline=True,
                stale_ok=True,
                verify=False,
            ).document["totals"]
        )
    totals = document["totals"]
    assert document["gap"] == 0
    apart = sum(one["all_on_demand_usd"] for one in alone)
    assert totals["all_on_demand_usd"] == pytest.approx(apart, rel=1e-6)
    assert totals["chosen_usd"] <= sum(one["chosen_usd"] for one in alone) * (1 + 1e-6)
    assert document["demand"]["rates_rps"] == pytest.approx([8.5, 8.5, 6.0, 6.0])
    assert len(document["demand"]["mixes"]) == 1 and document["demand"]["mix"] == [0] * 4
    for fleet in found.fleets:
        models = {m.name: m.workload.rate_rps for m in fleet.plan.models}
        assert models["chat"] == pytest.approx(max(chat[p] for p in fleet.periods))
        assert models["code"] == pytest.approx(max(code[p] for p in fleet.periods))
    assert {one["name"] for one in document["verification"]["models"]} == {"chat", "code"}


@pytest.mark.parametrize(
    ("header", "row", "line"),
    [
        ("rate_rps:chat", "1", r"^models\.csv: lacks the column 'rate_rps:code'; give the rates"),
        (
            "rate_rps:chat,rate_rps:cod",
            "1,1",
            r"^models\.csv: column 'rate_rps:cod': the spec has no such model \(did you mean 'code'\?\)",
        ),
        (
            "rate_rps:chat,rate_rps:code",
            "1,0",
            r"^models\.csv: rate_rps:code is 0 at 2026-11-02T00:00:00\+00:00 where other models have traffic",
        ),
    ],
)
def test_what_a_demand_of_models_lacks_is_one_line(
    folder: Path,  # noqa: F811
    header: str,
    row: str,
    line: str,
) -> None:
    (folder / "models.csv").write_text(
        f"time,{header}\n2026-11-02T00:00:00Z,{row}\n2026-11-02T01:00:00Z,{row}\n"
    )
    with pytest.raises(InputError, match=line):
        melange_sky.reservation(MODELS, demand="models.csv", offline=True, stale_ok=True)


def test_what_is_owned_serves_whichever_model_it_saves_most(folder: Path) -> None:  # noqa: F811
    chat, code = [8.0, 8.0, 2.0, 2.0], [0.5, 0.5, 4.0, 4.0]
    costs = []
    for count in (0, 1, 3):
        rows = [f"aws,us-east-1,g5.xlarge,{count},\n"] if count else []
        (folder / "owned.csv").write_text(
            "".join(("cloud,region,instance_type,count,until\n", *rows))
        )
        owned = {"owned": "owned.csv"} if count else {}
        found = by_model(folder, chat, code, **owned)
        assert found.document["gap"] == 0
        costs.append(found.document["totals"]["chosen_usd"])
        for period in found.document["periods"]:
            here = [one for one in period["fleet"] if one["instance_type"] == "g5.xlarge"]
            assert sum(one["owned"] for one in here) <= count
            running = sum(one["instances"] for one in here)
            assert sum(one["owned"] for one in here) == min(count, running)
    assert costs[0] > costs[1] > costs[2]
