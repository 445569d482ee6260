"""`melange-sky plan` as a user meets it: what it prints, writes and refuses, with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.runner import ROOT, melange_sky

MELANGE = {
    "gpu_info": {
        "A10G": {"cost": 1.01, "tputs": [[2, 1], [5, 2]]},
        "A100-80GB": {"cost": 3.67, "tputs": [[20, 20], [40, 20]]},
    },
    "workload_distribution": [[0.2, 0.1], [0.5, 0.2]],
    "total_request_rate": 30,
    "slice_factor": 1,
}


def _write(folder: Path, document: Any, name: str = "config.json") -> Path:
    file = folder / name
    file.write_text(json.dumps(document), encoding="utf-8")
    return file


def test_the_example_is_a_mix_with_origins(tmp_path: Path) -> None:
    answer = melange_sky("plan", "examples/chat.yaml", "--offline", "-o", str(tmp_path / "out"))
    assert answer.returncode == 0, answer.stderr
    plan = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    assert len({row["accelerator"] for row in plan["allocations"]}) >= 2
    assert plan["status"] == "optimal"
    assert plan["mip_gap"] == 0
    assert plan["cost_usd_per_hour"] == pytest.approx(
        sum(row["instances"] * row["price_usd_per_hour"] for row in plan["allocations"])
    )
    for row in plan["allocations"]:
        assert row["capacity_origin"] == "estimated"
        assert row["price_source"] and row["price_as_of"]
        assert 0 < row["load_fraction"] <= 0.9 + 1e-9
    for i, row in enumerate(plan["workload"]["rates_rps"]):
        for j, rate in enumerate(row):
            total = sum(a["shares"][i][j] for a in plan["allocations"])
            assert total == pytest.approx(1 if rate > 0 else 0)
    best = min(b["cost_usd_per_hour"] for b in plan["baselines"] if b["feasible"])
    assert plan["cost_usd_per_hour"] < best
    services = sorted(p.name for p in (tmp_path / "out").glob("*.sky.yaml"))
    assert len(services) == len(plan["allocations"])
    for row in plan["allocations"]:
        assert row["instance_type"] in answer.stdout
    assert "sky serve up -n" in answer.stdout
    assert "--secret HF_TOKEN" in answer.stdout


def test_an_engine_that_could_not_start_is_refused_before_planning(tmp_path: Path) -> None:
    spec = yaml.safe_load((ROOT / "examples" / "chat.yaml").read_text(encoding="utf-8"))
    file = tmp_path / "spec.yaml"
    text = yaml.safe_dump(spec | {"engine": None}, sort_keys=False).replace(
        "engine: null\n", "engine:\n  version: 0.33.0-foo\n  env: {SKYPILOT_X: a}\n"
    )
    file.write_text(text, encoding="utf-8")
    answer = melange_sky("plan", str(file), "--offline", "-o", str(tmp_path / "out"))
    line = text[: text.index("version: 0.33")].count("\n") + 1
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [
        f"error: {file}:{line}: engine.version: must be a version such as 0.33.0",
        f"{file}:{line + 1}: engine.env.SKYPILOT_X: belongs to SkyPilot",
    ]
    assert not (tmp_path / "out").exists()


def test_same_input_same_bytes_but_for_the_clock(tmp_path: Path) -> None:
    texts = []
    for k in range(2):
        answer = melange_sky(
            "plan",
            "examples/chat.yaml",
            "--offline",
            "-o",
            str(tmp_path / str(k)),
            SOURCE_DATE_EPOCH="1790000000",
        )
        assert answer.returncode == 0, answer.stderr
        plan = json.loads((tmp_path / str(k) / "plan.json").read_text(encoding="utf-8"))
        assert plan["created_at"] == "2026-09-21T14:13:20Z"
        del plan["solve_seconds"]
        services = {p.name: p.read_bytes() for p in (tmp_path / str(k)).glob("*.yaml")}
        texts.append((plan, services))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("assignment", "counts", "cost"),
    [
        ("sliced", {"A10G:1": 3, "A100-80GB:1": 1}, 6.70),
        ("fractional", {"A10G:1": 1, "A100-80GB:1": 1}, 4.68),
    ],
)
def test_melange_config_gives_its_readme_answer(
    tmp_path: Path, assignment: str, counts: dict[str, int], cost: float
) -> None:
    answer = melange_sky(
        "plan",
        str(_write(tmp_path, MELANGE)),
        "--assignment",
        assignment,
        "--format",
        "json",
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    plan = json.loads(answer.stdout)
    assert {a["accelerator"]: a["instances"] for a in plan["allocations"]} == counts
    assert plan["cost_usd_per_hour"] == pytest.approx(cost)
    assert {a["capacity_origin"] for a in plan["allocations"]} == {"given"}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_melange_papers_rate_figure(tmp_path: Path) -> None:
    config = {
        "gpu_info": {
            "A10G": {"cost": 1.01, "tputs": [[0.37]]},
            "A100": {"cost": 3.67, "tputs": [[2.0]]},
        },
        "workload_distribution": [[1.0]],
        "total_request_rate": 4.37,
        "slice_factor": 8,
    }
    answer = melange_sky("plan", str(_write(tmp_path, config)), "--format", "json", cwd=tmp_path)
    plan = json.loads(answer.stdout)
    assert {a["accelerator"]: a["instances"] for a in plan["allocations"]} == {
        "A100:1": 2,
        "A10G:1": 1,
    }
    assert plan["cost_usd_per_hour"] == pytest.approx(8.35)
    answer = melange_sky("plan", str(tmp_path / "config.json"), "-o", str(tmp_path / "out"))
    told = answer.stdout.splitlines()[-1]
    assert (
        told
        == f"Wrote {tmp_path}/out/plan.json; its options have no offers, so there are no services"
    )
    assert [p.name for p in (tmp_path / "out").glob("*.yaml")] == []


def _spec(**over: Any) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load(
        (ROOT / "examples" / "chat.yaml").read_text(encoding="utf-8")
    )
    return spec | over


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.yaml"], 2, "none.yaml: "),
        (["."], 2, "."),
        (
            ["chat.json", "--offline", "--refresh"],
            2,
            "--refresh needs the network and cannot be combined with --offline",
        ),
        (["chat.json", "--offline", "--time-limit", "0"], 2, "--time-limit"),
        (["chat.json", "--offline", "-o", "file/inside"], 2, "file"),
        (["impossible.json", "--offline"], 3, "input "),
        (["nowhere.json", "--offline"], 3, "no usable on demand offer of T4"),
    ],
)
def test_errors_are_one_clear_line(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    _write(tmp_path, _spec(), "chat.json")
    _write(tmp_path, _spec(slo={"tpot_ms": 0.01}, unusual="slo.tpot_ms"), "impossible.json")
    _write(tmp_path, _spec(resources={"accelerators": ["T4"], "infra": ["lambda"]}), "nowhere.json")
    (tmp_path / "file").write_text("a file where a folder belongs", encoding="utf-8")
    before = sorted(p.name for p in tmp_path.iterdir())
    answer = melange_sky("plan", *arguments, cwd=tmp_path)
    assert answer.returncode == code, answer.stderr
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_foreign_folder_is_kept_unless_forced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    arguments = ["plan", "examples/chat.yaml", "--offline", "-o", str(folder)]
    answer = melange_sky(*arguments)
    assert answer.returncode == 2
    assert "notes.txt" in answer.stderr
    assert [p.name for p in folder.iterdir()] == ["notes.txt"]
    assert melange_sky(*arguments, "--force").returncode == 0
    assert (folder / "plan.json").exists()


def test_render_writes_the_same_services_from_the_saved_plan(tmp_path: Path) -> None:
    assert (
        melange_sky("plan", "examples/chat.yaml", "--offline", "-o", str(tmp_path / "a")).returncode
        == 0
    )
    answer = melange_sky("render", str(tmp_path / "a" / "plan.json"), "-o", str(tmp_path / "b"))
    assert answer.returncode == 0, answer.stderr
    for file in sorted((tmp_path / "a").glob("*.sky.yaml")):
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


NOT_ON_THE_PATH = (
    "sky",
    "pandas",
    "aiohttp",
    "requests",
    "llvmlite",
    "scipy",
    "tokenizers",
    "prometheus_client",
    "filelock",
    "pydantic",
    "melange_sky.simulator",
    "melange_sky.replay",
    "melange_sky.profiler",
    "melange_sky.gateway",
    "melange_sky.pricing.refresh",
    "melange_sky.pricing.hosted_csv",
)


def test_plan_does_not_import_what_it_does_not_use(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from melange_sky.cli import main\n"
        f"try: main(['plan', 'examples/chat.yaml', '--offline', '-o', {str(tmp_path / 'o')!r}])\n"
        "except SystemExit as e: assert not e.code\n"
        f"print([m for m in {NOT_ON_THE_PATH} if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert answer.stdout.splitlines()[-1] == "[]"


OWN_CLUSTER = """cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour
kubernetes,dc1,node-a100,A100-80GB,2,1.5
"""


def test_own_infrastructure_is_planned_at_its_owners_prices(tmp_path: Path) -> None:
    """A cluster that no catalog lists can be named in a spec; its prices are then asked for."""
    spec = yaml.safe_load((ROOT / "examples/chat.yaml").read_text(encoding="utf-8"))
    spec["resources"] = {"accelerators": ["A100-80GB"], "infra": ["kubernetes"]}
    file = _write(tmp_path, spec, "spec.yaml")
    answer = melange_sky("plan", str(file), "--offline", "-o", str(tmp_path / "none"))
    assert answer.returncode == 4
    assert answer.stderr == (
        "error: no prices of kubernetes are known: it has no offers. `melange-sky prices cluster -o my.csv` "
        "lists what SkyPilot sees there; fill in what an instance costs you and say `offers: my.csv` in the "
        "spec (columns as in catalogs/README.md)\n"
    )
    assert not (tmp_path / "none").exists()
    offers = tmp_path / "my.csv"
    offers.write_text(OWN_CLUSTER, encoding="utf-8")
    arguments = ("--offline", "--offers", str(offers), "-o", str(tmp_path / "out"))
    answer = melange_sky("plan", str(file), *arguments)
    assert answer.returncode == 0, answer.stderr
    plan = json.loads((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    (row,) = plan["allocations"]
    assert (row["cloud"], row["region"], row["price_usd_per_hour"]) == ("kubernetes", "dc1", 1.5)
    assert row["price_source"] == "my.csv"
    (service,) = (tmp_path / "out").glob("*.sky.yaml")
    resources = yaml.safe_load(service.read_text(encoding="utf-8"))["resources"]
    assert resources["infra"] == "kubernetes/dc1"
    assert "instance_type" not in resources
