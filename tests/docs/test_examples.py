"""Every worked example is planned offline, and its plan is what the example is about."""

from __future__ import annotations

import gzip
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.runner import ROOT, melange_sky

pytestmark = pytest.mark.usefixtures("kept_estimates")

EXAMPLES = ROOT / "examples"
Plan = dict[str, Any]


def planned(name: str, folder: Path, *flags: str) -> Plan:
    """Plan an example as its page says."""
    asked = ("plan", f"examples/{name}.yaml", "--offline", "-o", str(folder / name), *flags)
    done = melange_sky(*asked)
    assert done.returncode == 0, done.stderr
    plan: Plan = json.loads((folder / name / "plan.json").read_text(encoding="utf-8"))
    assert plan["status"] == "optimal"
    return plan


def spec_of(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def _several_models(plan: Plan) -> None:
    assert [model["name"] for model in plan["models"]] == ["chat", "summaries"]
    gpus: dict[str, int] = {}
    for model in plan["models"]:
        assert model["allocations"]
        for row in model["allocations"]:
            name, _, count = row["accelerator"].partition(":")
            gpus[name] = gpus.get(name, 0) + int(count) * row["nodes"] * row["instances"]
    for name, most in spec_of("several-models")["resources"]["limits"].items():
        assert gpus.get(name, 0) <= most
    together = sum(model["cost_usd_per_hour"] for model in plan["models"])
    assert plan["cost_usd_per_hour"] == pytest.approx(together)


def _own_kubernetes(plan: Plan) -> None:
    limits = spec_of("own-kubernetes")["resources"]["limits"]
    own = [row for row in plan["allocations"] if row["cloud"] == "kubernetes"]
    assert own
    for row in own:
        assert row["price_source"] == "own-kubernetes.csv"
        assert row["instances"] <= limits[row["instance_type"]]


def _quotas_and_spot(plan: Plan) -> None:
    spec = spec_of("quotas-and-spot")
    rate = spec["workload"]["rate_rps"]
    by_cloud: dict[str, float] = {}
    for row in plan["allocations"]:
        by_cloud[row["cloud"]] = by_cloud.get(row["cloud"], 0.0) + row["rate_rps"]
    spot = sum(row["rate_rps"] for row in plan["allocations"] if row["use_spot"])
    assert 0 < spot <= spec["resources"]["spot"]["max_fraction"] * rate * 1.000001
    most = spec["redundancy"]["max_share_per_cloud"] * rate * 1.000001
    assert len(by_cloud) == 2
    assert max(by_cloud.values()) <= most


def _week(plan: Plan) -> None:
    profile = plan["rate_profile"]
    assert profile["rule"] == "holds"
    assert profile["mean_rps"] < profile["planned_rps"] < profile["peak_rps"]
    # what docs/examples.md says of it
    assert profile["mean_rps"] == pytest.approx(0.047, abs=0.0005)
    assert profile["peak_rps"] == pytest.approx(0.217, abs=0.0005)


def _moe_fp8(plan: Plan) -> None:
    assert plan["model"] == "Qwen/Qwen3-30B-A3B"
    forms = {(row["checkpoint"], row["quantization"]) for row in plan["allocations"]}
    assert any(name.endswith("-FP8") or quantization == "fp8" for name, quantization in forms)
    gain = plan["form_gain"]
    assert gain["cost_usd_per_hour"] < gain["without_usd_per_hour"]


def _current_fleet(plan: Plan) -> None:
    current = plan["current"]
    assert current["price"] == "given"
    assert current["cost_usd_per_hour"] == pytest.approx(2 * 27.5)
    saved = current["cost_usd_per_hour"] - plan["cost_usd_per_hour"]
    assert current["saving_usd_per_hour"] == pytest.approx(saved)
    assert current["holds"] is True


def _reserve(plan: Plan) -> None:
    rates = [float(line.split(",")[1]) for line in _lines("reserve-week.csv")[1:]]
    assert len(rates) == 168
    assert min(rates) < plan["workload"]["rate_rps"] < max(rates)


def _lines(name: str) -> list[str]:
    return (EXAMPLES / name).read_text(encoding="utf-8").splitlines()


CASES: dict[str, tuple[Callable[[Plan], None], tuple[str, ...]]] = {
    "several-models": (_several_models, ()),
    "own-kubernetes": (_own_kubernetes, ()),
    "quotas-and-spot": (_quotas_and_spot, ()),
    "week": (_week, ()),
    "moe-fp8": (_moe_fp8, ()),
    "current-fleet": (_current_fleet, ()),
    "reserve": (_reserve, ()),
}


@pytest.mark.parametrize("name", CASES)
def test_an_example_is_planned(name: str, tmp_path: Path) -> None:
    check, flags = CASES[name]
    check(planned(name, tmp_path, *flags))


def test_every_example_is_on_its_page_and_planned() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    names = {path.stem for path in EXAMPLES.glob("*.yaml")}
    assert names == {*CASES, "chat"}
    for name in names:
        assert f"melange-sky plan examples/{name}.yaml" in page


def test_the_weeks_are_what_their_scripts_make() -> None:
    made = "\n".join(runpy.run_path(str(EXAMPLES / "make_week.py"))["lines"]()) + "\n"
    held = gzip.decompress((EXAMPLES / "week.csv.gz").read_bytes()).decode()
    assert held == made
    rates = runpy.run_path(str(EXAMPLES / "make_reserve_week.py"))["lines"]()
    assert _lines("reserve-week.csv") == rates


@pytest.mark.timeout(400)
def test_a_week_is_reserved_and_every_fleet_and_the_whole_week_hold_in_replay(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    done = melange_sky(
        *("reserve", "examples/chat.yaml", "--demand", "examples/reserve-week.csv"),
        *("--offline", "--stale-ok", "--startup-s", "300", "--time-limit", "200", "-o", str(out)),
        within_s=380,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((out / "reserve.json").read_text(encoding="utf-8"))
    totals = document["totals"]
    assert totals["bound_usd"] <= totals["chosen_usd"] < totals["all_on_demand_usd"]
    assert totals["all_on_demand_usd"] < totals["commit_peak_usd"]
    assert document["commitments"]
    assert all(period["holds"] for period in document["periods"])
    proof = document["verification"]
    assert proof["holds"] and proof["hours"] == 168
    assert proof["attainment"] >= proof["target"]
    run = proof["in_one_run"]
    assert run["holds"] and run["hours"] == len(run["by_hour"]) == 168
    assert (run["startup_s"], run["startup_origin"]) == (300, "--startup-s") and run["starts"] > 50
