"""`plan` without a spec: flags that stand for one, told as a spec that plans to the same answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.runner import call as run_here

FLAGS = "--model meta-llama/Llama-3.1-8B-Instruct --rate 2 --input 500 --output 100 --ttft-ms 2000 --tpot-ms 60"
WHERE = ["--accelerators", "L4,A10G:1", "--infra", "aws"]
QUIET = ["--offline", "--format", "json"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return run_here(capsys, "plan", *arguments)


def test_flags_plan_what_the_spec_that_they_print_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(
        capsys, *FLAGS.split(), "--output-p95", "250", *WHERE, *QUIET, "-o", "one"
    )
    assert code == 0
    assert yaml.safe_load(err) == {
        "name": "llama-3-1-8b-instruct",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": 60, "ttft_ms": 2000},
        "workload": {
            "rate_rps": 2,
            "input_tokens": 500,
            "output_tokens": {"mean": 100, "p95": 250},
        },
        "resources": {"accelerators": ["L4", "A10G:1"], "infra": ["aws"]},
    }
    Path("spec.yaml").write_text(err)
    code, again, err = call(capsys, "spec.yaml", *QUIET, "--output", "two")
    assert (code, err) == (0, "")
    one, two = json.loads(out), json.loads(again)
    for key in ("cost_usd_per_hour", "allocations", "workload", "slo", "status", "name"):
        assert one[key] == two[key], key
    assert sorted(p.name for p in Path("one").iterdir()) == sorted(
        p.name for p in Path("two").iterdir()
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [],
            "plan without a spec also needs --model, --rate, --input, --output, --ttft-ms or --tpot-ms",
        ),
        (["--model", "m", "--rate", "1"], "also needs --input, --output, --ttft-ms or --tpot-ms"),
        (["spec.yaml", "--rate", "3"], "--rate belongs in the spec: edit spec.yaml"),
        (["spec.yaml", "--rate", "3", "--ttft-ms", "9"], "--rate, --ttft-ms belong in the spec"),
        ([*FLAGS.split(), "--output", "here"], "--output: 'here' must be the mean output tokens"),
        (
            [*FLAGS.split(), "--input-p95", "9"],
            "workload.input_tokens: p95 is 9, below the mean 500",
        ),
        ([*FLAGS.split(), "--infra", "awss"], "unknown cloud 'awss' (did you mean 'aws'?)"),
        ([*FLAGS.split(), "--rate", "0"], "--rate"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *arguments, "--offline")
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
