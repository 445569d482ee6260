"""What a plan tells beside its numbers: only what the reader can act on, and nothing hidden."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from melange_sky.errors import InfeasibleError
from melange_sky.offers import Flag, Severity
from melange_sky.planner.options import OfferRules, usable_offers
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.plans import Plan
from melange_sky.pricing import OfferQuery
from melange_sky.profiletable import ProfileTable, Provenance, write_table
from melange_sky.rendering import service_document
from melange_sky.spec import Resources
from tests.factories import make_offer

OFFLINE = PlanRequest(prices=OfferQuery(offline=True), sensitivity=False)


def _plan(folder: Path, request: PlanRequest = OFFLINE, **over: Any) -> Plan:
    spec: dict[str, Any] = {
        "name": "chat",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": 100},
        "workload": {
            "rate_rps": 1,
            "histogram": {"input_edges": [0, 100], "output_edges": [0, 100], "weights": [[1]]},
        },
        "resources": {"accelerators": ["L4"], "infra": ["aws"]},
    }
    file = folder / "spec.json"
    file.write_text(json.dumps(spec | over), encoding="utf-8")
    return plan_spec(file, request)


def _messages(plan: Plan, code: str) -> list[str]:
    return [w.message for w in plan.warnings if w.code == code]


def test_a_missing_price_is_told_only_where_no_region_has_one() -> None:
    missing = Flag(
        code="price-missing", severity=Severity.BLOCK, touches="on_demand", message="empty"
    )
    priced = make_offer(region="us-east-1", price_usd_per_hour=1.0)
    bare = replace(priced, region="us-east-2", price_usd_per_hour=None, flags=(missing,))
    only_spot = replace(bare, instance_type="spot-only.xlarge")
    planned, warnings = usable_offers([priced, bare, only_spot], Resources(), OfferRules())
    assert [p.offer for p in planned] == [priced]
    (warning,) = warnings
    assert warning.code == "not-sold"
    assert "spot-only.xlarge" in warning.message
    assert "use_spot: true" in warning.message
    assert priced.instance_type not in warning.message


def test_an_offer_without_any_price_is_not_said_to_be_sold_on_spot() -> None:
    missing = Flag(
        code="price-missing", severity=Severity.BLOCK, touches="on_demand", message="empty"
    )
    bare = make_offer(price_usd_per_hour=None, spot_usd_per_hour=None, flags=(missing,))
    spot = replace(bare, instance_type="spot-only.xlarge", spot_usd_per_hour=1.0)
    planned, warnings = usable_offers([bare, spot], Resources(), OfferRules())
    assert planned == []
    assert sorted(w.message.partition(",")[0] for w in warnings) == [
        "no on demand price",
        "only a spot price is known (use_spot: true plans with it)",
    ]


def test_a_limit_on_an_instance_type_that_nobody_sells_is_told(tmp_path: Path) -> None:
    slip = {"accelerators": ["L4"], "infra": ["aws"], "limits": {"g6.xlrge": 3}}
    (told,) = _messages(_plan(tmp_path, resources=slip), "limit")
    assert "'g6.xlrge'" in told
    assert "did you mean 'g6.xlarge'?" in told
    sound = slip | {"limits": {"g6.xlarge": 3, "H100": 1, "gcp": 1, "aws/us-east-1": 5}}
    assert _messages(_plan(tmp_path, resources=sound), "limit") == []


@pytest.mark.parametrize("asked", ["H100", "H100-SXM"])
def test_an_accelerator_that_its_cloud_lists_apart_is_planned(tmp_path: Path, asked: str) -> None:
    head = "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour"
    own = tmp_path / "own.csv"
    own.write_text(f"{head}\nrunpod,US,1x_H100-SXM_SECURE,H100-SXM,1,0.5\n", encoding="utf-8")
    request = replace(OFFLINE, prices=OfferQuery(offline=True, offers_csv=own))
    resources = {"accelerators": [asked], "limits": {"H100": 2, "H100-SXM": 1}}
    plan = _plan(tmp_path, request, resources=resources)
    (model,) = plan.models
    (allocation,) = model.allocations
    option = allocation.candidate.option
    assert (option.name, option.accelerator, option.figures, option.price_usd_per_hour) == (
        "h100-sxm-1-runpod-1x_h100-sxm_secure",
        "H100-SXM",
        "H100",
        0.5,
    )
    assert _messages(plan, "limit") == _messages(plan, "no-offer") == []
    document = service_document(model, allocation)
    assert document["resources"]["accelerators"] == "H100-SXM:1"
    if asked == "H100-SXM":
        assert [c.option.accelerator for c in model.candidates] == ["H100-SXM"]


def test_tables_under_the_arrivals_of_a_trace_are_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "home"))
    made = Provenance(
        model="meta-llama/Llama-3.1-8B-Instruct",
        accelerator="L4",
        accelerator_count=1,
        arrivals="bursts.csv sha256:0123456789ab",
    )
    file = tmp_path / "home" / "profiles" / "t.profile.jsonl"
    write_table(ProfileTable(provenance=made), file)
    (told,) = _messages(_plan(tmp_path), "profile")
    assert "(bursts.csv sha256:0123456789ab) are left out" in told
    write_table(ProfileTable(provenance=replace(made, arrivals="poisson")), file)
    assert _messages(_plan(tmp_path), "profile") == []


def test_another_engines_estimates_and_tables_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "home"))
    made = Provenance(
        model="meta-llama/Llama-3.1-8B-Instruct",
        accelerator="L4",
        accelerator_count=1,
        engine="vllm",
    )
    file = tmp_path / "home" / "profiles" / "t.profile.jsonl"
    write_table(ProfileTable(provenance=made), file)
    assert _messages(_plan(tmp_path), "profile") == []
    assert _messages(_plan(tmp_path), "engine") == []
    plan = _plan(tmp_path, engine={"name": "sglang", "args": ["--mem-fraction-static=0.8"]})
    assert _messages(plan, "profile") == [
        (
            "profile tables of meta-llama/Llama-3.1-8B-Instruct on L4:1 measured with vLLM are left out: "
            "the plan serves with SGLang"
        )
    ]
    assert _messages(plan, "engine") == [
        (
            "engine: SGLang has no figures of its own yet: its replicas are estimated as those of vLLM, the "
            "nearest engine; measure to know the error (melange-sky profile launch)"
        ),
        "engine.args: estimates ignore --mem-fraction-static; only measuring shows the effect",
    ]
    model = plan.models[0]
    assert (model.engine.name, model.engine_generation) == ("sglang", "vllm")
    write_table(ProfileTable(provenance=replace(made, engine="sglang")), file)
    assert _messages(_plan(tmp_path, engine={"name": "sglang"}), "profile") == []


def test_counts_too_small_for_the_model_are_one_line(tmp_path: Path) -> None:
    plan = _plan(
        tmp_path,
        model="meta-llama/Llama-3.1-70B-Instruct",
        resources={"accelerators": ["A100-80GB", "H100", "T4"]},
    )
    told = _messages(plan, "does-not-fit")
    small = [text for text in told if text.startswith("too small for the model")]
    assert len(small) == 1
    assert "H100:1" in small[0]
    assert "H100:8" not in small[0]
    assert any("T4:4: " in text and "GiB missing" in text for text in told)


DEFAULT_GRID = {
    "input_edges": [0, 25, 100, 250, 500, 1000, 2000, 4000, 8000, 12000, 16000],
    "output_edges": [0, 25, 100, 250, 500, 1000, 2000],
}


def test_requests_beyond_the_grid_are_named_where_no_plan_is_found(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(
        "arrival_s,input_tokens,output_tokens\n0,374,44\n2,90000,4\n3,30,5000\n", encoding="utf-8"
    )
    with pytest.raises(InfeasibleError, match=r"note: 66\.67% of the requests .* widen the grid"):
        _plan(tmp_path, workload={"trace": "trace.csv", "grid": DEFAULT_GRID})
