"""`melange-sky compare`: every fleet verified, told as table, JSON, CSV and figure."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli.runner import call as run_here

SPEC = """\
name: chat
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 50, ttft_ms: 1000}
workload:
  rate_rps: 3
  histogram: {input_edges: [0, 200, 1000], output_edges: [0, 300], weights: [[0.6], [0.4]]}
resources: {accelerators: [T4, A10G, L40S], infra: [aws]}
"""

pytestmark = [pytest.mark.usefixtures("kept_estimates"), pytest.mark.timeout(400)]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    return run_here(capsys, "compare", "spec.yaml", "--offline", *arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(SPEC)
    return tmp_path


def test_every_fleet_is_compared_at_equal_attainment(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "--rates", "1,4", "-o", "out", "--format", "json")
    assert code == 0
    rows = json.loads(out)
    assert [(r["rate_rps"], r["kind"]) for r in rows] == [
        (rate, kind) for rate in (1, 4) for kind in ("mix", "mix, sliced", "T4", "A10G", "L40S")
    ]
    for row in rows:
        if row["usd_per_hour"] is not None:
            assert row["low"] >= 0.95
            mix = next(r for r in rows if r["rate_rps"] == row["rate_rps"])
            assert mix["usd_per_hour"] <= row["usd_per_hour"] or row["kind"] == "mix, sliced"
        else:
            assert row["reason"]
    for rate in (1, 4):
        at_rate = [r for r in rows if r["rate_rps"] == rate]
        cheapest = min(r["paper_usd_per_hour"] for r in at_rate if r["paper_usd_per_hour"])
        assert at_rate[0]["paper_usd_per_hour"] == pytest.approx(cheapest)
    told = [line for line in err.splitlines() if not line.startswith("verifying for ")]
    assert len(told) == len(rows)

    with (folder / "out" / "compare.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(r["rate_rps"]) for r in written] == [r["rate_rps"] for r in rows]
    figure = ET.parse(folder / "out" / "compare.svg").getroot()
    text = " ".join(figure.itertext())
    assert all(kind in text for kind in {row["kind"] for row in rows})


def test_the_table_says_what_the_mix_saves(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys)
    assert code == 0
    assert "verified $/h" in out
    assert "mix, sliced" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rates", "x"],
        ["--rates", "0"],
        ["--rates", "nan"],
        ["--trace", "absent.csv"],
        ["-o", "spec.yaml"],
    ],
)
def test_wrong_use_is_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "error" in err.casefold()
    assert "Traceback" not in err
