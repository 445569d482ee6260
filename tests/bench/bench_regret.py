"""What plans are worth if the truth is not the estimate: traffic carried, and cost over the true optimum.

Twenty specs (five models × four mixes of sizes) are planned at several confidences on the cards of the
snapshot. Truths: ours (the end-to-end fit) with every card's capacities off by a draw from its own
band, and the kernels of the cards alone (an upper bound of what they can do).

    python tests/bench/bench_regret.py [DRAWS]
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from table import Figure, note

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from melange_sky.errors import InfeasibleError
from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.plans import Plan
from melange_sky.profiles import constants, engine_generation
from tests.scripts import script

MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": 16.0,
    "Qwen/Qwen3-32B": 4.0,
    "meta-llama/Llama-3.1-70B-Instruct": 2.0,
    "Qwen/Qwen3-30B-A3B": 12.0,
    "openai/gpt-oss-20b": 20.0,
}
MIXES = {
    "chat": ([0, 250, 1000], [0, 250], [[0.6], [0.4]]),
    "rag": ([0, 2000, 8000], [0, 150], [[0.7], [0.3]]),
    "write": ([0, 100], [0, 250, 1000], [[0.5, 0.5]]),
    "mixed": ([0, 100, 1000, 4000], [0, 100, 500], [[0.3, 0.2], [0.2, 0.1], [0.1, 0.1]]),
}
CARDS = ["L4", "A10G", "L40S", "A100-80GB", "H100"]
CONFIDENCES = 0.5, 0.7, 0.8, 0.9
KERNELS = "kernels"


def specs() -> dict[str, dict]:
    """Return the twenty specs by name."""
    found = {}
    for model, rate in MODELS.items():
        for name, (inputs, outputs, weights) in MIXES.items():
            found[f"{model.split('/')[1]} {name}"] = {
                "name": "regret",
                "model": model,
                "slo": {"tpot_ms": 80, "ttft_ms": 4000},
                "workload": {
                    "rate_rps": rate * (0.25 if name == "rag" else 1.0),
                    "histogram": {
                        "input_edges": inputs,
                        "output_edges": outputs,
                        "weights": weights,
                    },
                },
                "resources": {"accelerators": CARDS},
            }
    return found


def planned(spec: dict, confidence: float, generation: str | None = None) -> Plan | None:
    """Return the plan, None where nothing serves the spec."""
    options = PlanOptions(
        offline=True, confidence=confidence, engine_generation=generation, time_limit_s=20
    )
    try:
        return plan_source(spec, options)
    except InfeasibleError:
        return None


def true_rates(plan: Plan, factor: dict[str, float], truth: Plan | None) -> list[np.ndarray]:
    """Return each allocation's true capacity by bucket: factored by card, or another plan's figures."""
    model = plan.models[0]
    others = {} if truth is None else {c.option.name: c for c in truth.models[0].candidates}
    found = []
    for allocation in model.allocations:
        option = allocation.candidate.option
        cells = (others.get(option.name) or allocation.candidate).cells
        rates = np.array([[cell.max_rate_rps or 0.0 for cell in row] for row in cells])
        found.append(rates * factor.get(option.gpu, 1.0))
    return found


def carried(plan: Plan, rates: list[np.ndarray]) -> float:
    """Return the fraction of the traffic that the fleet carries with its shares as planned."""
    model = plan.models[0]
    asked = np.array(model.workload.rates_rps)
    total = 0.0
    for allocation, true in zip(model.allocations, rates, strict=True):
        part = asked * np.array(allocation.shares)
        with np.errstate(divide="ignore", invalid="ignore"):
            load = np.nansum(np.where(part > 0, part / true, 0.0)) / allocation.instances
        total += part.sum() * min(1.0, 1.0 / load if load > 0 else 1.0)
    return total / asked.sum()


def draws_of(plan: Plan, rng: np.random.Generator) -> dict[str, float]:
    """Return a factor by card, drawn from its band (log-normal on each side, ends at 5 %)."""
    found: dict[str, float] = {}
    for candidate in plan.models[0].candidates:
        cell = next((c for row in candidate.cells for c in row if c.max_rate_rps), None)
        if cell is None or candidate.option.gpu in found or not cell.low_rps or not cell.high_rps:
            continue
        z = rng.standard_normal() / 1.645
        end = cell.high_rps if z > 0 else cell.low_rps
        found[candidate.option.gpu] = math.exp(abs(z) * math.log(end / cell.max_rate_rps))
    return found


def with_kernels() -> None:
    """Add the kernels alone as a generation of its own."""
    base = {**constants._document()["vllm"], **script("calibrate").NOTES}
    alone = script("step_check").kernels_alone(base)
    generation = engine_generation("vllm")
    host = replace(alone.overheads, step_s=0.0)
    kernels = replace(
        generation,
        name=KERNELS,
        efficiencies={**generation.efficiencies, **alone.efficiencies},
        overheads=host,
        fingerprint=KERNELS,
    )
    known = constants.engine_generation
    constants._document()[KERNELS] = {}
    wrapped = lambda name: kernels if name == KERNELS else known(name)  # noqa: E731
    for module in list(sys.modules.values()):
        if getattr(module, "engine_generation", None) is known:
            module.engine_generation = wrapped


def main(draws: int) -> None:
    """Print, per confidence and truth, what is carried and what it costs."""
    with_kernels()
    rng = np.random.default_rng(5)
    rows: dict[tuple[float, str], list[tuple[float, float]]] = {}
    for name, spec in specs().items():
        plans = {c: planned(spec, c) for c in CONFIDENCES}
        median = plans[0.5]
        if median is None:
            print(f"{name:40} cannot be served by these cards")
            continue
        best = planned(spec, 0.5, KERNELS)
        chosen = [draws_of(median, rng) for _ in range(draws)]
        for confidence, plan in plans.items():
            if plan is None:
                continue
            over = plan.cost_usd_per_hour / median.cost_usd_per_hour - 1
            for factor in chosen:
                share = carried(plan, true_rates(median_figures(plan, median), factor, None))
                rows.setdefault((confidence, "ours, off by its band"), []).append((share, over))
            if best is not None:
                share = carried(plan, true_rates(plan, {}, best))
                over = plan.cost_usd_per_hour / best.cost_usd_per_hour - 1
                rows.setdefault((confidence, "kernels alone"), []).append((share, over))
    print(
        "confidence  truth                  all carried  carried: 10th pct  median   cost over optimum"
    )
    for (confidence, truth), values in sorted(rows.items()):
        share, over = np.array(values).T
        print(
            f"{confidence:10.2f}  {truth:22} {np.mean(share >= 0.999):10.0%}  {np.percentile(share, 10):16.2f}"
            f"  {np.median(share):6.2f}   {np.mean(over):+.0%} (median {np.median(over):+.0%})"
        )
        what = f"fleets that carry all, confidence {confidence:g}, {truth}"
        cost = f"cost over the optimum {np.mean(over):+.0%}"
        carry = float(np.mean(share >= 0.999))
        note(Figure(what=what, ours=carry, unit="", more_is_better=True, note=cost))


def median_figures(plan: Plan, median: Plan) -> Plan:
    """Return the plan with the median's capacities, of which the draws are factors."""
    figures = {c.option.name: c for c in median.models[0].candidates}
    model = plan.models[0]
    allocations = tuple(
        replace(a, candidate=figures.get(a.candidate.option.name, a.candidate))
        for a in model.allocations
    )
    return replace(plan, models=(replace(model, allocations=allocations),))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
