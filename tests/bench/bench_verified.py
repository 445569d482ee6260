"""Verified plans on twelve specs: against each accelerator alone, the plan of before, and traffic not used.

Each spec is planned and verified as `plan --verify` does. Then

* the plan is no dearer than the best single accelerator by the same replay,
* nor than the plan of an earlier version of this project where that, replayed now, holds,
* it holds on three seeds that nothing has seen,
* and for a trace, a plan made from every second five minutes holds on the other ones.

    python tests/bench/bench_verified.py [NAME …] [--seconds 120] [--before CHECKOUT]

CHECKOUT is a folder with another version (`git worktree add /tmp/before a89c28f`). A search takes the given
seconds at most. Exit 1 where anything above fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from table import Beside, Figure, note

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from melange_sky.errors import MelangeError
from melange_sky.planfile import load_plan
from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.planner.replay_loop.incumbent import Incumbent, fleet_today
from melange_sky.planner.replay_loop.replan import Replanner
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.planner.replay_loop.search import Journal, Search
from melange_sky.plans import ModelPlan, Plan
from melange_sky.replay import Replay

FIVE = ["L4", "A10G", "L40S", "A100-80GB", "H100"]
FRESH = 1001, 1002, 1003
WINDOW_S = 300.0


def spec(workload: dict[str, Any], accelerators: list[str], **slo: float) -> dict[str, Any]:
    """Return a spec of Llama 3.1 8B on two clouds."""
    return {
        "name": "bench",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": 60, "ttft_ms": 2000, "attainment": 0.95} | slo,
        "workload": workload,
        "resources": {"accelerators": accelerators, "infra": ["aws", "gcp", "azure/eastus"]},
    }


def azure(rate_rps: float, **more: float) -> dict[str, Any]:
    """Return the traffic of the Azure conversation trace."""
    return {"rate_rps": rate_rps, "distribution": "azure-conv-2023"} | more


AGENTS = {
    "input_edges": [0, 1000, 4000, 12000],
    "output_edges": [0, 100, 400],
    "weights": [[0.1, 0.1], [0.4, 0.1], [0.2, 0.1]],
}
SPECS: dict[str, dict[str, Any]] = {
    "example": spec(azure(16), FIVE),
    "chat, 0.2 req/s": spec(azure(0.2), ["L4", "A10G", "L40S"]),
    "chat, 200 req/s": spec({"rate_rps": 200, "distribution": "short-chat"}, FIVE),
    "chat, tight": spec(
        {"rate_rps": 12, "distribution": "short-chat"}, FIVE, tpot_ms=25, ttft_ms=400
    ),
    "L40S, TTFT 1500": spec(azure(16), ["L40S:1"], ttft_ms=1500),
    "A10G, 1 req/s": spec(azure(1.04), ["A10G"]),
    "burstiness 50": spec(azure(16, burstiness=50), FIVE),
    "agents": spec(
        {"rate_rps": 6, "burstiness": 10, "histogram": AGENTS}, [*FIVE, "H200"], ttft_ms=4000
    ),
    "code trace": spec({"trace": "code.csv"}, FIVE, ttft_ms=3000),
    "documents": spec(
        {"trace": "documents.csv"}, ["A100-80GB", "H100"], ttft_ms=30000, attainment=0.9
    ),
    "bursty hour": spec({"trace": "hour.csv"}, FIVE),
    "week": spec({"trace": "week.csv"}, FIVE),
}


def write_trace(path: Path, shape: Any, span_s: float, mean_rps: float, sizes: Any) -> None:
    """Write a Poisson stream of rates `shape(t)`, scaled to a mean, by the second."""
    rng = np.random.default_rng(11)
    rates = np.array([shape(t) for t in np.arange(0.0, span_s)])
    counts = rng.poisson(rates * mean_rps / rates.mean())
    at = np.repeat(np.arange(len(counts)), counts) + rng.random(int(counts.sum()))
    inputs, outputs = sizes(rng, len(at))
    rows = zip(np.sort(at).tolist(), inputs.tolist(), outputs.tolist(), strict=True)
    lines = [f"{t:.3f},{i},{o}" for t, i, o in rows]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "\n".join(lines) + "\n")


def lognormal(median_in: float, spread_in: float, median_out: float, most: int) -> Any:
    """Return what draws sizes around medians, prompts of at most so many tokens."""

    def draw(rng: np.random.Generator, count: int) -> tuple[Any, Any]:
        inputs = np.clip(rng.lognormal(np.log(median_in), spread_in, count), 5, most)
        outputs = np.clip(rng.lognormal(np.log(median_out), 0.9, count), 1, 1500)
        return inputs.astype(int), outputs.astype(int)

    return draw


def by_day(t: float) -> float:
    """Return the shape of a week: busy from 7 to 21 o'clock, less on two days."""
    hour, day = t / 3600 % 24, t // 86400
    sun = np.sin((hour - 7) / 14 * np.pi) if 7 <= hour <= 21 else 0.0
    return float((1.0 if day < 5 else 0.35) * max(0.05, sun) ** 1.5)


def write_traces(folder: Path) -> None:
    """Write the four traces that specs name."""
    chat, code = lognormal(700, 1.1, 130, 14_000), lognormal(1500, 0.7, 14, 7_500)
    write_trace(folder / "code.csv", lambda t: 12.0 if t % 200 < 10 else 0.42, 3600, 2.5, code)
    papers = lognormal(12_000, 0.3, 300, 30_000)
    write_trace(folder / "documents.csv", lambda _: 1.0, 5400, 0.8, papers)
    write_trace(folder / "hour.csv", lambda t: 6.0 if 1500 < t < 1900 else 1.0, 3600, 4.0, chat)
    write_trace(folder / "week.csv", by_day, 604_800, 1.04, chat)


@dataclass(slots=True)
class Row:
    """What one spec came to; `problems` are what must not be."""

    name: str
    estimate: float
    verified: float
    low: float
    single: float | None
    before: float | None
    before_holds: bool | None
    fresh: float
    unused: float | None
    seconds: float
    problems: list[str]


def traffic_of(
    plan: ModelPlan, seed: int, trace: Path | None, burstiness: float
) -> SimulationRequest:
    """Return the spec's own traffic with another seed."""
    profile = plan.rate_profile
    scale = 1.0 if profile is None or trace else profile.mean_rps / plan.workload.rate_rps
    return SimulationRequest(
        trace=trace, rate_scale=scale, burstiness=burstiness, how=Replay(seed=seed), jobs=2
    )


def before(
    checkout: Path, document: dict[str, Any], folder: Path, plan: Plan
) -> tuple[float, bool] | None:
    """Return what the earlier version's plan costs today and whether it holds; None without a plan."""
    old = json.loads(json.dumps(document))
    burstiness = old["workload"].pop("burstiness", 1.0)
    (folder / "old.json").write_text(json.dumps(old))
    arguments = ["-m", "melange_sky", "plan", "old.json", "--offline", "--force", "-o", "old-plan"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, check=False
    )
    if done.returncode:
        return None
    incumbent = Incumbent(path=folder, saved=load_plan(folder / "old-plan"))
    replanner = Replanner(first=plan, request=PlanOptions(offline=True).request())
    fleet = fleet_today(incumbent, replanner)
    if isinstance(fleet, str):
        print(f"  before: {fleet}")
        return None
    trace = document["workload"].get("trace")
    request = traffic_of(plan.models[0], 0, trace and folder / trace, burstiness)
    search = Search(
        replanner=replanner, simulation=request, journal=Journal(rounds=[[]]), models=(0,)
    )
    return fleet.cost_usd_per_hour, search.try_known(fleet, ())


def unused_windows(document: dict[str, Any], folder: Path, seconds: float) -> float:
    """Plan from every second five minutes of the trace; return the attainment on the other ones."""
    header, *lines = (folder / document["workload"]["trace"]).read_text().splitlines()
    for part in (0, 1):
        kept = [row for row in lines if float(row.split(",")[0]) // WINDOW_S % 2 == part]
        (folder / f"part{part}.csv").write_text("\n".join([header, *kept]) + "\n")
    half = document | {"workload": {"trace": "part0.csv"}}
    (folder / "half.json").write_text(json.dumps(half))
    options = PlanOptions(offline=True, verify=True, verify_seconds=seconds)
    (model,) = plan_source(folder / "half.json", options).models
    assert model.verification is not None and model.verification.holds
    request = SimulationRequest(trace=folder / "part1.csv", jobs=2)
    return simulate_plan(model, request).verdict.attainment


def measured(name: str, folder: Path, seconds: float, checkout: Path | None) -> Row:
    """Plan, verify and check one spec."""
    document = SPECS[name]
    (folder / "spec.json").write_text(json.dumps(document))
    begin = time.monotonic()
    plan = plan_source(
        folder / "spec.json", PlanOptions(offline=True, verify=True, verify_seconds=seconds)
    )
    took = time.monotonic() - begin
    (model,) = plan.models
    found = model.verification
    assert found is not None
    problems = [] if found.holds else [f"does not hold: {found.reason}"]
    singles = [b.verified.cost_usd_per_hour for b in model.baselines if b.verified]
    cost, single = plan.cost_usd_per_hour, min(singles, default=None)
    if single is not None and cost > single + 1e-6:
        problems.append("dearer than one accelerator alone")
    earlier = before(checkout, document, folder, plan) if checkout else None
    if earlier and earlier[1] and cost > earlier[0] + 1e-6:
        problems.append("dearer than the plan of before")
    trace, target = document["workload"].get("trace"), document["slo"]["attainment"]
    burstiness = document["workload"].get("burstiness", 1.0)
    fresh = [
        simulate_plan(model, traffic_of(model, seed, trace and folder / trace, burstiness)).verdict
        for seed in (FRESH if not trace else FRESH[:1])
    ]
    least = min(v.attainment for v in fresh)
    if least < target:
        problems.append("misses on fresh seeds")
    unused = unused_windows(document, folder, seconds) if trace else None
    if unused is not None and unused < target:
        problems.append("misses on windows that were not used")
    return Row(
        name=name,
        estimate=cost - found.premium_usd_per_hour,
        verified=cost,
        low=found.low,
        single=single,
        before=earlier and earlier[0],
        before_holds=earlier and earlier[1],
        fresh=least,
        unused=unused,
        seconds=took,
        problems=problems,
    )


def shown(row: Row) -> str:
    """Return a row of the table."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    held = "" if row.before is None else (" holds" if row.before_holds else " misses")
    cells = [row.name, *map(number, (row.estimate, row.verified, row.low, row.single))]
    cells += [
        number(row.before) + held,
        *map(number, (row.fresh, row.unused)),
        f"{row.seconds:.0f}",
    ]
    return " | ".join([*cells, "; ".join(row.problems) or "ok"])


def main() -> None:
    """Print the table; exit 1 where a spec has a problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SPECS))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--before", type=Path)
    given = parser.parse_args()
    print(
        "spec | by estimate | verified $/h | low | best single | before | fresh | unused | s | verdict"
    )
    bad = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_traces(folder)
        for one in given.names:
            try:
                row = measured(one, folder, given.seconds, given.before)
            except MelangeError as error:
                print(f"{one} | {error}", flush=True)
                bad = True
                continue
            bad |= bool(row.problems)
            print(shown(row), flush=True)
            note(
                Figure(
                    what=f"verified fleet, {one}",
                    ours=row.verified,
                    unit="$/h",
                    rival=Beside(name="best single", value=row.single),
                    note="; ".join(row.problems) or "holds on fresh seeds",
                )
            )
    sys.exit(bad)


if __name__ == "__main__":
    main()
