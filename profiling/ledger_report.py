"""What the engine model says of the ledger's runs: errors and the coverage of its bands, by class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ledger import Run
from measured_sets import Row

from melange_sky.names.accelerators import find_accelerator
from melange_sky.parallelism import Parallelism
from melange_sky.profiles import engine_generation
from melange_sky.simulator import RequestStream, simulate_closed_loop, simulate_replica
from melange_sky.steps import (
    ErrorBand,
    Generation,
    Regime,
    ReplicaModel,
    regime_of,
    split_band,
    split_replica,
)

GENERATIONS = {("vllm", "0.5"): "vllm-0.5", ("vllm", "0.2"): "vllm-0.2", ("tgis", "2023"): "tgis"}
"""Engine and version (its first two numbers) → generation; other versions of vLLM are today's."""

TRITON_EXPERTS, ADA = (0, 11, 1), 8.9
"""Releases before came without Triton's kernels of 4-bit experts: Hopper ran, and padded, as Ada."""

_FLAGS = {
    "--max-num-batched-tokens": ("budget_tokens", "budget_tokens_large"),
    "--max-num-seqs": ("max_num_seqs", "max_num_seqs_large"),
}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One run beside what is said of it: log(measured ÷ predicted) of rate and TPOT (NaN: none)."""

    run: Run
    rate_gap: float
    tpot_gap: float
    band: ErrorBand

    @property
    def inside(self) -> bool:
        """Whether the measured rate lies in the stated band."""
        return self.band.low <= math.exp(self.rate_gap) <= self.band.high


def generation_of(run: Run) -> Generation:
    """Return the engine generation that serves the run's version, its own flags set."""
    short = ".".join(run.version.split(".")[:2])
    name = GENERATIONS.get((run.engine, short), run.engine)
    if name == "vllm" and not run.is_async:
        name = "vllm-0.11"
    return own_flags(run, engine_generation(name))


def own_flags(run: Run, generation: Generation) -> Generation:
    """Return the generation with the run's own limits set."""
    changes: dict[str, float] = {}
    for flag, text in run.flag_values.items():
        for field in _FLAGS.get(flag, ()):
            changes[field] = int(text)
        if flag == "--gpu-memory-utilization":
            changes["gpu_memory_utilization"] = float(text)
    schedule = dataclasses.replace(generation.schedule, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(generation, schedule=schedule)


def predict(run: Run, generation: Generation) -> tuple[float, float] | None:
    """Return predicted (requests/s, seconds per output token); None where the model would not fit."""
    if run.load == "batch" or run.engine == "tgis":
        return _as_row(run, generation).predict(generation)
    card = find_accelerator(run.accelerator)
    if run.numbers < TRITON_EXPERTS and card.capability is not None:
        card = dataclasses.replace(card, capability=min(card.capability, ADA))
    replica = split_replica(run.shape, card, split_of(run), generation)
    if not isinstance(replica, ReplicaModel):
        return None
    # a pipeline works on as many batches at once as it has stages: each is simulated by itself
    inputs, outputs = (sizes[:: run.pp] for sizes in run.sizes())
    if run.load == "open":
        rng = np.random.default_rng(11)
        arrivals = np.cumsum(rng.exponential(run.pp / run.rate_rps, len(inputs)))
        log = simulate_replica(replica, RequestStream.of(arrivals, inputs, outputs))
    elif run.load == "closed" and run.concurrency < run.requests:
        log = simulate_closed_loop(replica, -(-run.concurrency // run.pp), inputs, outputs)
    else:
        # the API server takes them in one after the other
        sent_s = np.arange(len(inputs)) * generation.overheads.request_s * run.pp
        log = simulate_replica(replica, RequestStream.of(sent_s, inputs, outputs))
    if not log.ok.any():
        return None
    tpot_s = log.tpot_s[log.ok & ~np.isnan(log.tpot_s)]
    seconds = float(np.nanmax(log.last_token_s[log.ok]))
    return run.pp * int(log.ok.sum()) / seconds, float(tpot_s.mean()) if len(tpot_s) else math.nan


def _as_row(run: Run, generation: Generation) -> Row:
    """Return a run as a row of the older sets, which say how theirs are counted."""
    sizes = (run.input_tokens, run.input_p50, run.output_tokens, run.output_p50)
    return Row(
        generation=generation.name,
        model=run.model,
        accelerator=run.accelerator,
        tensor_parallel=run.tp,
        concurrency=run.concurrency,
        sizes=sizes,
        rate_rps=run.rate_rps,
        token_s=run.tpot_s or math.nan,
    )


def judge(runs: Iterable[Run]) -> list[Judged]:
    """Return what the model says of each run; one that would not fit is as wrong as can be."""
    judged = []
    for run in runs:
        generation = generation_of(run)
        rate_rps, tpot_s = predict(run, generation) or (math.inf, math.inf)
        judged.append(
            Judged(
                run=run,
                rate_gap=math.nan
                if run.load == "open"
                else math.log(run.rate_rps / rate_rps)
                if rate_rps < math.inf
                else -math.inf,
                tpot_gap=math.log(run.tpot_s / tpot_s) if run.tpot_s else math.nan,
                band=split_band(
                    generation.error_band(run.accelerator, run.shape, run.tp, regime(run)),
                    split_of(run),
                ),
            )
        )
    return judged


def split_of(run: Run) -> Parallelism:
    """Return how the run's GPUs hold the model."""
    return Parallelism(tensor=run.tp, pipeline=run.pp)


def regime(run: Run) -> Regime:
    """Return what limits a run: few sequences, long prompts, or neither."""
    return regime_of(run.input_tokens, run.concurrency)


def class_of(run: Run) -> str:
    """Return card, dtype, dense or MoE, tensor parallelism and regime in a few words."""
    kind = "dense" if run.shape.experts is None else "MoE"
    return f"{run.accelerator} {run.quantization} {kind} {split_of(run).label} {regime(run)}"


def table(judged: Sequence[Judged], key: Callable[[Run], str]) -> list[str]:
    """Return one line per class, and one over all."""
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(key(one.run), []).append(one)
    head = (
        f"{'class':44} rows  promised ÷ measured  rate error median, p90  "
        "TPOT error median, p90  in band"
    )
    lines = [head, *(_line(name, groups[name]) for name in sorted(groups))]
    return [*lines, _line("all", judged)]


def row_texts(judged: Sequence[Judged]) -> list[str]:
    """Return one line per run: what was measured beside what is said, and the band."""
    lines = []
    for one in judged:
        run = one.run
        ours = "" if math.isnan(one.rate_gap) else f"{run.rate_rps * math.exp(-one.rate_gap):.4g}"
        band = f"{one.band.low:.2f} to {one.band.high:.2f}"
        size = (
            f"{run.input_tokens:.0f} + {run.output_tokens:.0f} tokens, {run.concurrency} at a time"
        )
        mark = " " if math.isnan(one.rate_gap) or one.inside else "*"
        lines.append(
            f"{mark} {run.id:14} {run.model:40} {class_of(run):42} {run.version:8} {size:38} "
            f"measured {run.rate_rps:.4g} req/s, ours {ours} (× {band})"
        )
    return lines


def _line(name: str, judged: Sequence[Judged]) -> str:
    # open loops at rates that were held say nothing of the highest one
    rated = [one for one in judged if not math.isnan(one.rate_gap)]
    tpots = np.array([one.tpot_gap for one in judged if not math.isnan(one.tpot_gap)])
    bias = rate = inside = "–"
    if rated:
        gaps = np.array([one.rate_gap for one in rated])
        bias, rate = f"{np.exp(-np.median(gaps)):.2f}", _errors(gaps)
        inside = f"{sum(one.inside for one in rated) / len(rated):.0%}"
    tpot = _errors(tpots) if len(tpots) else "–"
    return f"{name:44} {len(judged):4}  {bias:>19}  {rate:>23}  {tpot:>23}  {inside:>7}"


def _errors(gaps: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    """|predicted ÷ measured − 1|, median and 90th percentile."""
    error = np.abs(np.expm1(-gaps))
    return f"{np.median(error):.1%}, {np.percentile(error, 90):.0%}"
