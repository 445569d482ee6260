"""A backtest: the watcher over hours of rates, its changes played through the simulator."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import melange_sky
from melange_sky.planfile import load_plan
from melange_sky.planner.watching.asking import WatchOptions
from melange_sky.planner.watching.document import backtest_document
from melange_sky.planner.watching.judging import judged, shifted, stretches_of
from melange_sky.planner.watching.plan_fleets import PlanFleets
from melange_sky.planner.watching.playing import Fleet
from melange_sky.planner.watching.replay import backtest, write_replay
from melange_sky.planner.watching.rivals import SkyRule, sky_rules
from melange_sky.planner.watching.traffic import played_traffic
from melange_sky.replay import FleetStep, rollout_of
from melange_sky.report.backtest import backtest_text
from melange_sky.watching.journal import Journal, read_journal
from tests.cli.runner import call
from tests.factories import make_model_plan

SPEC = """\
name: w
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 60, ttft_ms: 2000}
workload: {rate_rps: 3, distribution: short-chat}
resources: {accelerators: [L4, A10G], infra: aws}
"""
START = datetime(2026, 11, 2, tzinfo=timezone.utc)


def rates_csv(path: Path, rates: list[float], step_s: int = 300) -> Path:
    rows = [
        f"{(START + timedelta(seconds=n * step_s)).isoformat()},{rate:.4f}\n"
        for n, rate in enumerate(rates)
    ]
    path.write_text("time,rate_rps\n" + "".join(rows))
    return path


def swing(hours: int, low: float, high: float) -> list[float]:
    steps = hours * 12
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle - half * math.cos(2 * math.pi * n / steps) for n in range(steps)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("watch")
    spec = place / "w.yaml"
    spec.write_text(SPEC)
    melange_sky.write(melange_sky.plan(spec, offline=True), place / "plan")
    return place / "plan"


def options(path: Path, **over: Any) -> WatchOptions:
    return WatchOptions(replay=path, mode="apply", **over)


def silent(_text: str) -> None:
    """Hear nothing."""


def test_a_swing_is_followed_and_held(folder: Path, tmp_path: Path) -> None:
    path = rates_csv(tmp_path / "swing.csv", swing(8, 1.0, 8.0))
    found = backtest(folder, options(path), silent)
    assert found.held and not found.blocked
    assert found.watched.judged is not None and found.watched.judged.whole
    assert found.above_perfect is not None and 0 <= found.above_perfect < 0.5
    names = {one.name: one for one in found.contenders}
    assert found.watched.usd < names["static peak"].usd
    assert names["static peak"].changes == 0
    document = backtest_document(found)
    assert json.loads(json.dumps(document)) == document
    assert "perfect foresight" in backtest_text(document)
    again = backtest(folder, options(path), silent)
    assert again.lines == found.lines
    assert backtest_document(again) == document


def test_its_journal_is_a_journal_and_never_overwrites_a_live_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rates_csv(tmp_path / "flat.csv", [2.0] * 24)
    found = backtest(folder, options(path), silent, compare=False)
    journal = write_replay(found, folder)
    told = read_journal(journal)
    assert len(told.lines) == 120
    assert {line["decision"] for line in told.lines} == {"keep"}
    assert {line["replay"] for line in told.lines} == {"flat.csv"}
    backtest(folder, options(path), silent, compare=False)  # one of a replay is replaced
    Journal(journal).append({"time": "2026-11-03T00:00:00Z", "decision": "keep"})
    before = journal.read_bytes()
    code, _, said = call(capsys, "watch", str(folder), "--replay", str(path))
    assert code == 2
    assert "tells of a live fleet" in said and said.count("\n") == 1
    assert journal.read_bytes() == before
    journal.unlink()


def test_a_frozen_fleet_misses_and_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rates_csv(tmp_path / "rise.csv", [1.0] * 12 + [25.0] * 12)
    policy = tmp_path / "guard.yaml"
    policy.write_text("freeze: true\n")
    flags = ["--replay", str(path), "--policy", str(policy), "--format", "json"]
    code, out, said = call(capsys, "watch", str(folder), *flags)
    assert code == 5, said
    document = json.loads(out)
    assert document["blocked"] and not document["held"]
    assert document["decisions"]["blocked freeze"] > 0
    code, out, _ = call(capsys, "watch", str(folder), "--explain")
    assert code == 0 and "blocked [freeze]" in out
    code, out, _ = call(capsys, "watch", str(folder), "--explain", "3", "--format", "json")
    assert len(json.loads(out)) == 3
    (folder / "watch.jsonl").unlink()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--replay", "nothing.csv"], "nothing.csv"),
        (["--every", "0"], "--every"),
        (["--every", "30", "--replay", "x.csv"], "--every: a replay looks every 20 s"),
        (["--startup-s", "-1"], "--startup-s"),
        (["--explain", "many"], "--explain: 'many' must be LAST or a number of lines"),
        (["--policy", "nothing.yaml", "--once", "--observed", "x.yaml"], "nothing.yaml"),
        (["--timezone", "UTC"], "name the trace with --replay"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    Journal(folder / "watch.jsonl").append({"time": "x", "decision": "keep", "replay": "y"})
    code, _, said = call(capsys, "watch", str(folder), *arguments)
    (folder / "watch.jsonl").unlink()
    assert code == 2
    assert text in said and said.count("\n") == 1


def test_an_hour_at_least(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rates_csv(tmp_path / "short.csv", [1.0, 1.0])
    code, _, said = call(capsys, "watch", str(folder), "--replay", str(path))
    assert code == 2
    assert "covers less than an hour" in said
    path.write_text(path.read_text().replace("rate_rps", "rate_rps:chat"))
    code, _, said = call(capsys, "watch", str(folder), "--replay", str(path))
    assert code == 2
    assert "names rates of single models" in said and said.count("\n") == 1


def test_a_part_of_a_rollout_begins_with_what_serves_then() -> None:
    one, other = make_model_plan(), make_model_plan()
    other = replace(
        other, allocations=tuple(replace(each, instances=3) for each in other.allocations)
    )
    steps = [
        FleetStep(at_s=0, plan=one, counts={"a10g": 1}),
        FleetStep(at_s=1000, plan=other, counts={"a10g": 3}),
    ]
    part = shifted(rollout_of(steps, 600), 1200)
    assert [(life.ordered_s, life.serves_s) for life in part.lives] == [
        (-1200, 0),
        (-200, 400),
        (-200, 400),
    ]
    assert [(one.at_s, one.plan is other) for one in part.handovers] == [(0, False), (400, True)]


RULES = {
    "min_replicas": ("", "redundancy: {min_replicas: 3}"),
    "spare": ("", "redundancy: {spare: 1}"),
    "fixed": (', fixed: [{accelerators: "A10G:1", instances: 2}]', ""),
    "minimum": (', minimum: [{accelerators: "A10G:1", instances: 2}]', ""),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_plan_with_rules_is_played_to_its_end(rule: str, tmp_path: Path) -> None:
    of_resources, section = RULES[rule]
    spec = tmp_path / "w.yaml"
    spec.write_text(SPEC.replace("infra: aws}", f"infra: [aws]{of_resources}}}") + section + "\n")
    melange_sky.write(melange_sky.plan(spec, offline=True), tmp_path / "plan")
    path = rates_csv(tmp_path / "swing.csv", swing(3, 1.0, 7.0))
    found = backtest(tmp_path / "plan", options(path), silent)
    assert found.held and not found.blocked
    names = {one.name: one for one in found.contenders}
    assert {"static peak", "SkyServe's rule"} <= set(names)
    lives = [json.loads(line)["observed"]["live"] for line in found.lines]
    replicas = [sum(live.values()) for live in lives]
    assert min(replicas) >= {"min_replicas": 3, "fixed": 1}.get(rule, 2)
    document = backtest_document(found)
    if rule == "fixed":  # what it takes is paid for
        assert replicas == sorted(replicas), "what is paid for stays"
        assert found.watched.usd == 0.0 and document["above_perfect_fraction"] is None
    else:
        assert 0 < found.watched.usd < 1.1 * names["static peak"].usd
    assert "perfect foresight" in backtest_text(document)


def test_a_tuned_rule_is_told_at_the_attainment_that_is_compared(
    folder: Path, tmp_path: Path
) -> None:
    path = rates_csv(tmp_path / "swing.csv", swing(4, 1.0, 9.0))
    fleets, one = PlanFleets(load_plan(folder)), options(path)
    assert one.trace is not None
    traffic = played_traffic(one.trace, path, fleets.plan.models[0].workload, 0)
    startup_s = (180.0,) * len(fleets.options)

    def tuned(goal: float) -> SkyRule:
        _, best = sky_rules(fleets, traffic, startup_s, goal, (100_000, 0))
        assert best is not None and best.usd_at_goal is not None
        assert best.judged.attainment >= goal and best.usd_at_goal <= best.usd
        return best

    found = tuned(0.9)
    assert found.usd_at_goal is not None and 0.7 * found.usd < found.usd_at_goal < found.usd
    again = tuned(found.judged.attainment)
    assert again.usd_at_goal == pytest.approx(again.usd)


def test_stretches_stand_for_the_whole(folder: Path, tmp_path: Path) -> None:
    path = rates_csv(tmp_path / "steep.csv", [2.0] * 30 + [11.0] * 18 + [2.0] * 24)
    plan = PlanFleets(load_plan(folder))
    (model,) = plan.plan.models
    one = options(path)
    assert one.trace is not None
    traffic = played_traffic(one.trace, path, model.workload, 0)
    first, second = (plan.cheapest(rate) for rate in (2.2, 12.0))
    assert first is not None and second is not None
    fleet = Fleet(plan, [600.0] * len(plan.options), first)
    fleet.change(150 * 60.0, second)  # as traffic has risen: too late
    whole = judged(fleet, traffic, 10**9, 0)
    assert whole.whole and whole.half_width == 0.0 and len(whole.days) == 1
    part = judged(fleet, traffic, traffic.requests // 2, 0)
    assert not part.whole and part.stretches == 36
    assert 0.5 < whole.attainment < 0.98
    assert part.attainment == pytest.approx(whole.attainment, abs=max(part.half_width, 0.01))
    taken = stretches_of(fleet, traffic, traffic.requests // 2)
    counts = [int(traffic.counts[s.counts_from : s.end].sum()) for s in taken]
    stood = sum(s.weight * n for s, n in zip(taken, counts, strict=True))
    assert stood == pytest.approx(traffic.requests, rel=1e-9)
    full = [s for s in taken if s.is_full]
    assert full and all(s.weight == pytest.approx(1.0) for s in full)  # all of them
    assert max(s.counts_from - s.begin for s in full) > max(
        s.counts_from - s.begin for s in taken if not s.is_full
    )
