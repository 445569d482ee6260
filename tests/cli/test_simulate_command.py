"""`melange-sky simulate`: the fields that scripts read, exit codes, and the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from melange_sky.planfile import dump_plan
from melange_sky.plans import Plan
from melange_sky.slo import SLO
from tests.cli.runner import call as run_here
from tests.factories import make_model_plan, make_plan


def write(folder: Path, plan: Plan) -> str:
    path = folder / "plan.json"
    path.write_text(dump_plan(plan))
    return str(path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return run_here(capsys, "simulate", *arguments)


def test_json_holds_the_fields_and_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (write(tmp_path, make_plan()), "--format", "json", "--duration", "300")
    code, out, err = call(capsys, *arguments)
    assert code == 0
    assert err == ""
    found: dict[str, Any] = json.loads(out)
    assert found["met"] is True
    assert found["requests"] == found["completed"]
    assert 0.95 <= found["attainment"] <= 1
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        values = [found[name][p] for p in ("p50", "p90", "p95", "p99")]
        assert values == sorted(values)
    assert found["goodput_rps"] == pytest.approx(3.5, rel=0.2)
    assert found["cost_usd_per_million_tokens"] > 0
    assert {a["option"] for a in found["allocations"]} == {"a10g", "a100"}
    assert sum(a["requests"] for a in found["allocations"]) == found["requests"]
    assert all(0 <= a["utilization"] <= 1 for a in found["allocations"])
    assert call(capsys, *arguments)[1] == out
    assert call(capsys, *arguments, "--seed", "1")[1] != out


def test_cost_per_token_is_the_fleets_price_over_what_it_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    rows = [f"{k},100,50" for k in range(1000)]
    trace.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *rows]))
    plan = make_plan()
    code, out, _ = call(capsys, write(tmp_path, plan), "--trace", str(trace), "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert found["requests"] == 1000
    assert found["cost_usd_per_million_tokens"] == pytest.approx(
        plan.cost_usd_per_hour / (150 * 3600) * 1e6, rel=0.01
    )


def test_a_missed_slo_exits_5_and_still_shows_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write(tmp_path, make_plan(slo=SLO(tpot_s=0.001, ttft_s=2.0)))
    code, out, err = call(capsys, plan, "--duration", "100", "--format", "json")
    assert code == 5
    assert json.loads(out)["met"] is False
    assert err.startswith("error: chat: SLO missed")
    assert err.count("\n") == 1
    code, out, _ = call(capsys, plan, "--duration", "100")
    assert code == 5
    assert "SLO MISSED" in out
    assert "where it breaks" in out
    assert "TPOT missed" in out


def test_overload_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write(tmp_path, make_plan())
    code, out, _ = call(capsys, plan, "--rate-scale", "60", "--duration", "120", "--format", "json")
    assert code == 5
    assert json.loads(out)["attainment"] < 0.9


def test_runs_longer_until_the_interval_is_narrow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = write(tmp_path, make_plan())
    scale = ("--format", "json")
    median_s = json.loads(call(capsys, plan, *scale)[1])["ttft_s"]["p50"]
    plan = write(tmp_path, make_plan(slo=SLO(ttft_s=median_s)))
    wide = json.loads(call(capsys, plan, *scale, "--ci", "0.05")[1])
    narrow = json.loads(call(capsys, plan, *scale, "--ci", "0.006")[1])
    low, high = narrow["attainment_interval"]
    assert (high - low) / 2 <= 0.006
    assert narrow["requests"] > wide["requests"]
    short = json.loads(call(capsys, plan, *scale, "--ci", "0.0005", "--duration", "30")[1])
    assert any("too short for ±0.0005" in note for note in short["notes"])


def test_several_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = (make_model_plan(name="a"), make_model_plan(name="b"))
    path = write(tmp_path, make_plan(name="both", models=models, lists_models=True))
    code, out, _ = call(capsys, path, "--duration", "60", "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert [m["name"] for m in found["models"]] == ["a", "b"]
    code, _, err = call(capsys, path, "--model", "c")
    assert (code, "no model 'c'" in err) == (2, True)
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,1,1\n")
    code, _, err = call(capsys, path, "--trace", str(trace))
    assert (code, "--model" in err) == (2, True)
    assert call(capsys, path, "--trace", str(trace), "--model", "b")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.json"], "absent.json"),
        (["plan.json", "--trace", "absent.csv"], "no such trace"),
        (["plan.json", "--trace", "empty.csv"], "holds no request"),
        (["plan.json", "--duration", "1e9", "--rate-scale", "1e6"], "shorten --duration"),
        (["plan.json", "--duration", "1e-9"], "longer --duration"),
        (["plan.json", "--duration", "nan"], "duration"),
        (["plan.json", "--rate-scale", "0"], "rate-scale"),
        (["config.json"], "nothing to replay"),
    ],
)
def test_wrong_use_is_exit_2(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, make_plan())
    (tmp_path / "config.json").write_text(dump_plan(make_plan(model_shape=None)))
    (tmp_path / "empty.csv").write_text("arrival_s,input_tokens,output_tokens\n")
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
