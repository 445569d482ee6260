"""What replicas carry: memory fit, engine settings, and a rate per bucket with its origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.accelerators import AcceleratorSpec, find_accelerator
from melange_sky.capacity import CapacityCell, EngineSettings, Origin
from melange_sky.engine import (
    Load,
    Misfit,
    ReplicaModel,
    capacity_estimate,
    knee_batch,
    kv_pool,
    replica_model,
)
from melange_sky.engine.memory import GIB
from melange_sky.errors import InputError
from melange_sky.profiles.constants import engine_generation
from melange_sky.profiles.query import CapacityQuery, ReplicaCapacity, ReplicaShape

if TYPE_CHECKING:
    from melange_sky.engine import ErrorBand, Estimate, Generation
    from melange_sky.models import ModelShape

LARGEST_TOKENS = 10_000_000
_SPLITS = (1, 2, 4, 8, 16)


def engine_replica(
    model: ModelShape, shape: ReplicaShape, generation: str = "vllm"
) -> ReplicaModel | Misfit:
    """Return one engine of the replica for the simulator, or what keeps the model from fitting."""
    accelerator = find_accelerator(shape.accelerator)
    return replica_model(model, accelerator, shape.tensor_parallel, engine_generation(generation))


def sensible_splits(
    model: ModelShape, accelerator: AcceleratorSpec, count: int, generation: str = "vllm"
) -> tuple[tuple[int, int], ...]:
    """Return (tensor parallel, data parallel) with product `count`, smallest tensor split first.

    Only splits that divide the heads and on which the model fits.
    """
    figures = engine_generation(generation)
    return tuple(
        (tp, count // tp)
        for tp in range(1, count + 1)
        if count % tp == 0
        and model.heads % tp == 0
        and not isinstance(kv_pool(model, accelerator, tp, figures), Misfit)
    )


def replica_capacities(
    query: CapacityQuery, shapes: Sequence[ReplicaShape]
) -> tuple[ReplicaCapacity, ...]:
    """Return what each replica shape carries, in the order given.

    Raises InputError for an unknown accelerator or engine and for sizes that cannot be.
    """
    _check(query)
    generation = engine_generation(query.generation)
    return tuple(_replica_capacity(query, shape, generation) for shape in shapes)


def _check(query: CapacityQuery) -> None:
    sizes = [s for matrix in (query.input_sizes, query.output_sizes) for row in matrix for s in row]
    for size in sizes:
        if not 0 <= size <= LARGEST_TOKENS:  # NaN fails too
            raise InputError(f"request sizes must lie between 0 and {LARGEST_TOKENS} tokens")


def _replica_capacity(
    query: CapacityQuery, shape: ReplicaShape, generation: Generation
) -> ReplicaCapacity:
    accelerator = find_accelerator(shape.accelerator)
    replica = replica_model(query.model, accelerator, shape.tensor_parallel, generation)
    if isinstance(replica, Misfit):
        reason = _misfit_reason(query.model, accelerator, shape, generation)
        cell = CapacityCell(max_rate_rps=None, reason=reason)
        cells = tuple(tuple(cell for _ in row) for row in query.input_sizes)
        return ReplicaCapacity(shape=shape, settings=None, cells=cells, reason=reason)
    settings, replica = _settings(query, shape, replica, generation)
    band = generation.error_band(accelerator.name)
    return ReplicaCapacity(
        shape=shape, settings=settings, cells=_cells(query, shape, (settings, replica), band)
    )


def _settings(
    query: CapacityQuery, shape: ReplicaShape, replica: ReplicaModel, generation: Generation
) -> tuple[EngineSettings, ReplicaModel]:
    longest = min(query.longest_request_tokens, query.model.context_tokens, replica.pool.tokens)
    sequences = knee_batch(replica, _servable(query, longest), query.slo)
    settings = EngineSettings(
        tensor_parallel=shape.tensor_parallel,
        data_parallel=shape.data_parallel,
        max_model_len=max(1, longest),
        max_num_seqs=sequences,
        gpu_memory_utilization=generation.schedule.gpu_memory_utilization,
        kv_cache_tokens=replica.pool.tokens,
        dtype=None,
    )
    return settings, replica.with_max_num_seqs(sequences)


def _sizes(query: CapacityQuery) -> Load:
    """All buckets, row by row; sizes below one token count as one."""
    flat = (
        np.array(m, dtype=np.float64).reshape(-1) for m in (query.input_sizes, query.output_sizes)
    )
    inputs, outputs = flat
    return Load(input_tokens=np.maximum(inputs, 1.0), output_tokens=np.maximum(outputs, 1.0))


def _servable(query: CapacityQuery, longest: int) -> Load:
    """The sizes that fit into `max_model_len`, whatever their traffic; all where none does."""
    load = _sizes(query)
    fits = load.input_tokens + load.output_tokens <= longest
    keep = fits if fits.any() else np.ones_like(fits)
    return Load(input_tokens=load.input_tokens[keep], output_tokens=load.output_tokens[keep])


def _cells(
    query: CapacityQuery,
    shape: ReplicaShape,
    engine: tuple[EngineSettings, ReplicaModel],
    band: ErrorBand,
) -> tuple[tuple[CapacityCell, ...], ...]:
    settings, replica = engine
    load = _sizes(query)
    estimate = capacity_estimate(replica, load, query.slo)
    columns = len(query.input_sizes[0])
    rows = []
    for i, row in enumerate(query.input_sizes):
        cells = []
        for j in range(len(row)):
            at = i * columns + j
            size = (load.input_tokens[at], load.output_tokens[at])
            reason = _absent(query, settings, (i, j), size)
            if reason is None:
                cells.append(_estimated(query, estimate, at, (shape.data_parallel, band)))
            else:
                cells.append(CapacityCell(max_rate_rps=None, reason=reason))
        rows.append(tuple(cells))
    return tuple(rows)


def _absent(
    query: CapacityQuery, settings: EngineSettings, cell: tuple[int, int], size: tuple[float, float]
) -> str | None:
    """Why a bucket is not computed at all, None where it is."""
    i, j = cell
    if query.needed is not None and not query.needed[i][j]:
        return "no traffic"
    total = size[0] + size[1]
    if total > query.model.context_tokens:
        return f"{total:.0f} tokens exceed the model's context of {query.model.context_tokens}"
    if total > settings.max_model_len:
        return (
            f"{total:.0f} tokens exceed the {settings.max_model_len} that fit into the KV cache"
            if settings.max_model_len == settings.kv_cache_tokens
            else f"{total:.0f} tokens exceed max_model_len {settings.max_model_len}"
        )
    return None


def _estimated(
    query: CapacityQuery, estimate: Estimate, at: int, scale: tuple[int, ErrorBand]
) -> CapacityCell:
    copies, band = scale
    rate = float(estimate.rate_rps[at]) * copies
    if rate <= 0:
        return CapacityCell(max_rate_rps=None, reason=slo_reason(query, estimate, at))
    return CapacityCell(
        max_rate_rps=rate,
        origin=Origin.ESTIMATED,
        low_rps=rate * band.low,
        high_rps=rate * band.high,
    )


def slo_reason(query: CapacityQuery, estimate: Estimate, at: int) -> str:
    """Say which limit a request misses even alone on the replica."""
    slo, tpot, ttft = query.slo, float(estimate.tpot_floor_s[at]), float(estimate.ttft_floor_s[at])
    if slo.tpot_s is not None and tpot > slo.tpot_s:
        return f"TPOT is {tpot * 1e3:.1f} ms even alone, the limit is {slo.tpot_s * 1e3:g} ms"
    if slo.ttft_s is not None and ttft > slo.ttft_s:
        return f"TTFT is {ttft * 1e3:.0f} ms even alone, the limit is {slo.ttft_s * 1e3:g} ms"
    return "the SLO is not met at any rate"


def _misfit_reason(
    model: ModelShape, accelerator: AcceleratorSpec, shape: ReplicaShape, generation: Generation
) -> str:
    """Say how much memory is missing and which split or dtype would fit."""
    found = kv_pool(model, accelerator, shape.tensor_parallel, generation)
    assert isinstance(found, Misfit)
    where = f"{shape.tensor_parallel} × {accelerator.name}"
    text = (
        f"{model.name[:80]} ({model.weight_bytes / GIB:.1f} GiB of weights) does not fit on {where}: "
        f"{found.missing_bytes / GIB:.1f} GiB missing"
    )
    ways = []
    splits = (tp for tp in _SPLITS if tp > shape.tensor_parallel and model.heads % tp == 0)
    if (
        more := next((tp for tp in splits if _fits(model, accelerator, tp, generation)), None)
    ) is not None:
        ways.append(f"{more} × {accelerator.name}")
    for dtype, size in (("fp8", 1.0), ("4-bit (AWQ or GPTQ)", 0.55)):
        smaller = dataclasses.replace(model, weight_dtype_bytes=size)
        if size < model.weight_dtype_bytes and _fits(
            smaller, accelerator, shape.tensor_parallel, generation
        ):
            ways.append(f"{dtype} weights")
            break
    return f"{text}; {' or '.join(ways)} would fit" if ways else text


def _fits(
    model: ModelShape, accelerator: AcceleratorSpec, tensor_parallel: int, generation: Generation
) -> bool:
    return not isinstance(kv_pool(model, accelerator, tensor_parallel, generation), Misfit)
