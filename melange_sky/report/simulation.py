"""How a verdict is shown: JSON for scripts, a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from melange_sky.report.page import Printer, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import Plan
    from melange_sky.replay import OptionVerdict, Percentiles, Simulation, Verdict

WORST_BUCKETS = 5
DIGITS = 9
"""Significant digits in JSON: below them, differences between machines' libraries would show."""


def rounded(value: Any) -> Any:
    """Return numbers with `DIGITS` significant digits, through lists and mappings."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return value


def simulation_document(simulation: Simulation) -> dict[str, Any]:
    """Return the JSON document of one plan's replay; it holds no wall-clock value."""
    verdict, plan = simulation.verdict, simulation.plan
    document = {
        "name": plan.name,
        "model": plan.model,
        "traffic": simulation.traffic,
        "replications": verdict.replications,
        "requests": verdict.requests,
        "judged_requests": verdict.judged,
        "completed": verdict.completed,
        "refused": verdict.refused,
        "span_s": verdict.span_s,
        "warmup_s": verdict.warmup_s,
        "attainment": verdict.attainment,
        "attainment_interval": list(verdict.interval),
        "target": verdict.target,
        "met": verdict.met,
        "surely": verdict.surely,
        "ttft_s": _percentiles(verdict.ttft_s),
        "tpot_s": _percentiles(verdict.tpot_s),
        "e2e_s": _percentiles(verdict.e2e_s),
        "goodput_rps": verdict.goodput_rps,
        "cost_usd_per_hour": plan.cost_usd_per_hour,
        "cost_usd_per_million_tokens": verdict.cost_usd_per_million_tokens,
        "allocations": [_option(option, simulation) for option in verdict.options],
        "buckets": _bucket_rows(simulation),
        "over_time": _over_time(simulation),
        "notes": list(simulation.notes),
    }
    result = rounded(document)
    assert isinstance(result, dict)
    return result


def simulations_document(simulations: Sequence[Simulation], planned: Plan) -> dict[str, Any]:
    """Return the document of a plan's replay: its one model's, or all of those that it lists."""
    documents = [simulation_document(simulation) for simulation in simulations]
    if not planned.lists_models:
        return documents[0]
    met = all(simulation.verdict.met for simulation in simulations)
    return {"name": planned.name, "met": met, "models": documents}


def _percentiles(values: Percentiles) -> dict[str, float | None]:
    return {"p50": values.p50, "p90": values.p90, "p95": values.p95, "p99": values.p99}


def _option(option: OptionVerdict, simulation: Simulation) -> dict[str, Any]:
    shares = {"prefix_hit_fraction": option.prefix_hits} if _shares_prefixes(simulation) else {}
    return {
        "option": option.option,
        "requests": option.requests,
        "utilization": option.utilization,
        "attainment": option.attainment,
        "attainment_interval": list(option.interval),
        "ttft_missed_fraction": option.ttft_missed,
        "tpot_missed_fraction": option.tpot_missed,
        "preemptions": option.preemptions,
        "queue_mean": option.queue_mean,
        "queue_peak": option.queue_peak,
        "kv_used_mean": option.kv_used_mean,
        "kv_used_peak": option.kv_used_peak,
        **shares,
    }


def _shares_prefixes(simulation: Simulation) -> bool:
    return simulation.run.found_tokens is not None


def _bucket_rows(simulation: Simulation) -> list[dict[str, Any]]:
    workload = simulation.plan.workload
    return [
        {
            "bucket": workload.label(*b.bucket),
            "input": b.bucket[0],
            "output": b.bucket[1],
            "requests": b.requests,
            "attainment": b.attainment,
            "attainment_interval": list(b.interval),
        }
        for b in simulation.verdict.buckets
    ]


def _over_time(simulation: Simulation) -> dict[str, Any]:
    run = simulation.run
    return {
        "time_s": run.sample_s.tolist(),
        "options": [
            {
                "option": name,
                "queued": run.waiting[:, k].tolist(),
                "running": run.running[:, k].tolist(),
                "kv_used": run.kv_used[:, k].tolist(),
            }
            for k, name in enumerate(run.log.options)
        ],
    }


def simulation_table(simulation: Simulation, *, width: int | None = None) -> str:
    """Return a plan's replay as text for a terminal of `width` columns."""
    return text_of(print_simulation, simulation, width=width)


def print_simulations(console: Printer, simulations: Sequence[Simulation]) -> None:
    """Print the replay of each model."""
    for simulation in simulations:
        print_simulation(console, simulation)


def print_simulation(console: Printer, simulation: Simulation) -> None:
    """Print the verdict, latencies, how each option did and where the SLO breaks."""
    verdict, plan = simulation.verdict, simulation.plan
    console.print(f"{escape(plan.name)}: {escape(plan.model)}, {escape(simulation.traffic)}")
    console.print(_headline(verdict, plan.cost_usd_per_hour) + "\n")
    console.print(_time_table(verdict))
    console.print()
    console.print(_option_table(simulation))
    worst = [b for b in verdict.buckets if b.attainment < verdict.target]
    worst.sort(key=lambda b: (b.attainment - 1) * b.requests)
    if worst:
        console.print("\nwhere it breaks (buckets with the most requests out of the SLO):")
    for bucket in worst[:WORST_BUCKETS]:
        console.print(
            f"  {plan.workload.label(*bucket.bucket)}: {bucket.attainment:.1%} of {bucket.requests}"
        )
    if _shares_prefixes(simulation):
        routed = "with" if simulation.affinity else "without"
        console.print(
            "\nprefix hits: part of the judged requests' prompt tokens found in prefix caches, "
            f"{routed} session affinity"
        )
    for note in simulation.notes:
        console.print(f"note: {escape(note)}")


def _headline(verdict: Verdict, cost_usd_per_hour: float) -> str:
    low, high = verdict.interval
    word = "met" if verdict.met else "MISSED"
    sure = "" if verdict.surely else ", but not certainly: the interval contains the target"
    price = verdict.cost_usd_per_million_tokens
    each = f" of each of {verdict.replications} replications" if verdict.replications > 1 else ""
    per_token = "" if price is None else f", ${price:.3g} per million tokens (in + out)"
    return (
        f"SLO {word}{sure}: {verdict.attainment:.2%} of {verdict.judged} judged requests within "
        f"limits (95 % interval {low:.2%} to {high:.2%}), target {verdict.target:.4g}\n"
        f"{verdict.requests} sent, {verdict.completed} completed, {verdict.refused} refused or "
        f"failed; the first and last {verdict.warmup_s:.0f} s{each} are not judged\n"
        f"goodput {verdict.goodput_rps:.4g} req/s at ${cost_usd_per_hour:,.3f}/h{per_token}"
    )


def _time_table(verdict: Verdict) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("")
    for name in ("p50", "p90", "p95", "p99"):
        table.add_column(name, justify="right")
    rows = (("TTFT ms", verdict.ttft_s), ("TPOT ms", verdict.tpot_s), ("E2E ms", verdict.e2e_s))
    for label, values in rows:
        shown = (values.p50, values.p90, values.p95, values.p99)
        table.add_row(label, *("-" if v is None else f"{v * 1000:,.1f}" for v in shown))
    return table


def _option_table(simulation: Simulation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("option")
    names = (
        "run",
        "requests",
        "busy",
        "within SLO",
        "TTFT missed",
        "TPOT missed",
        "queue mean",
        "peak",
        "KV peak",
        *(("prefix hits",) if _shares_prefixes(simulation) else ()),
    )
    for name in names:
        table.add_column(name, justify="right")
    pairs = zip(simulation.plan.allocations, simulation.verdict.options, strict=True)
    for allocation, option in pairs:
        table.add_row(
            escape(option.option),
            f"{allocation.instances} ×",
            str(option.requests),
            f"{option.utilization:.0%}",
            _share(option.attainment),
            _share(option.ttft_missed),
            _share(option.tpot_missed),
            f"{option.queue_mean:.1f}",
            f"{option.queue_peak:.0f}",
            f"{option.kv_used_peak:.0%}",
            *((_share(option.prefix_hits),) if _shares_prefixes(simulation) else ()),
        )
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
