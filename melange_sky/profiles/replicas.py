"""What replicas carry: memory fit, engine settings, and a rate per bucket with its origin."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.accelerators import AcceleratorSpec
from melange_sky.capacities import CapacityCell, EngineSettings
from melange_sky.errors import InputError
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles.cache import fingerprint
from melange_sky.profiles.cells import (
    Engine,
    EngineAnswer,
    Progress,
    place_cells,
    simulated_cells,
    tabled_cells,
)
from melange_sky.profiles.constants import engine_generation
from melange_sky.profiles.embedded import Found
from melange_sky.profiles.misfit import misfit_reason
from melange_sky.profiles.own_tables import matching, measured_tables
from melange_sky.profiles.query import CapacityQuery, ReplicaCapacity, ReplicaShape
from melange_sky.steps import (
    Load,
    Misfit,
    ReplicaModel,
    capacity_estimate,
    capacity_estimates,
    knee_batch,
    kv_pool,
    replica_model,
)

if TYPE_CHECKING:
    from melange_sky.models import ModelShape
    from melange_sky.steps import Generation

LARGEST_TOKENS = 10_000_000

EngineKey = tuple[str, int]
"""(accelerator, tensor parallel) of one engine."""


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

    Only splits that divide the heads and on which the model fits. Routed experts are not copied:
    vLLM spreads them over all GPUs of a data-parallel group, whose engines then wait for each other in
    every layer, which the engine model does not know.
    """
    figures = engine_generation(generation)
    return tuple(
        (tp, count // tp)
        for tp in range(1, count + 1)
        if count % tp == 0
        and (model.experts is None or tp == count)
        and model.splits_over(tp)
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
    answers = _answers(query, shapes, generation)
    tables = measured_tables() if query.measured else ()
    found = []
    for shape in shapes:
        answer = answers[shape.accelerator, shape.tensor_parallel]
        if isinstance(answer, str):
            cell = CapacityCell(max_rate_rps=None, reason=answer)
            cells = tuple(tuple(cell for _ in row) for row in query.input_sizes)
            found.append(ReplicaCapacity(shape=shape, settings=None, cells=cells, reason=answer))
            continue
        settings = _settings_of(query, shape, answer, generation)
        own = matching(tables, query, shape)
        cells = place_cells(query, answer, settings, (shape.data_parallel, own))
        found.append(ReplicaCapacity(shape=shape, settings=settings, cells=cells))
    return tuple(found)


def embedded_tables(
    query: CapacityQuery, shapes: Sequence[ReplicaShape]
) -> dict[str, dict[str, object]]:
    """Return, per replica that fits, simulated ÷ analytic rates on the query's grid, by fingerprint.

    null where a size does not fit into the cache, 0 where the SLO cannot be met.
    """
    generation = engine_generation(query.generation)
    exact = dataclasses.replace(query, exact=True)
    load, tables = _sizes(query), {}
    answers = _answers(exact, shapes, generation)
    for shape in shapes:
        answer = answers[shape.accelerator, shape.tensor_parallel]
        if isinstance(answer, str):
            continue
        engine = answer.engine
        guess = capacity_estimate(engine.replica, load, query.slo).rate_rps.tolist()
        fits = (load.input_tokens + load.output_tokens <= engine.max_model_len).tolist()
        flat = [
            None if not fit else 0.0 if rate is None or first <= 0 else round(rate / first, 3)
            for (rate, _), first, fit in zip(answer.found, guess, fits, strict=True)
        ]
        columns = len(query.input_sizes[0])
        tables[fingerprint(engine.replica, query.slo, with_limit=False)] = {
            "model": query.model.name,
            "accelerator": shape.accelerator,
            "tensor_parallel": shape.tensor_parallel,
            "engine": query.generation,
            "slo": dataclasses.asdict(query.slo),
            "ratios": [flat[i : i + columns] for i in range(0, len(flat), columns)],
        }
    return tables


def _check(query: CapacityQuery) -> None:
    sizes = [s for matrix in (query.input_sizes, query.output_sizes) for row in matrix for s in row]
    for size in sizes:
        if not 0 <= size <= LARGEST_TOKENS:  # NaN fails too
            raise InputError(f"request sizes must lie between 0 and {LARGEST_TOKENS} tokens")


def _answers(
    query: CapacityQuery, shapes: Sequence[ReplicaShape], generation: Generation
) -> dict[EngineKey, EngineAnswer | str]:
    """Return what each engine (a tensor-parallel group) carries, or why the model does not fit."""
    keys = sorted({(shape.accelerator, shape.tensor_parallel) for shape in shapes})
    progress, load = Progress.start(query, len(keys)), _sizes(query)
    built = {key: _engine(query, key, load, generation) for key in keys}
    engines = {key: engine for key, engine in built.items() if isinstance(engine, Engine)}
    guesses = dict(
        zip(
            engines,
            capacity_estimates([e.replica for e in engines.values()], load, query.slo),
            strict=True,
        )
    )
    answers: dict[EngineKey, EngineAnswer | str] = {}
    settled: dict[EngineKey, list[Found | None]] = {}
    unknown = []
    for key, engine in built.items():
        if isinstance(engine, str):
            answers[key] = engine
            continue
        settled[key] = tabled_cells(query, engine, load, guesses[key])
        if None in settled[key]:
            unknown.append(key)
        else:
            answers[key] = EngineAnswer(engine=engine, found=tuple(filter(None, settled[key])))
    progress.step(len(load.input_tokens) * (len(keys) - len(unknown)))
    if unknown:
        # Engines are independent, and the compiled simulator lets other threads run.
        with ThreadPoolExecutor(max_workers=min(len(unknown), os.cpu_count() or 1, 8)) as pool:
            found = pool.map(
                lambda key: simulated_cells(
                    query, engines[key], load, (guesses[key], settled[key]), progress
                ),
                unknown,
            )
            answers.update(zip(unknown, found, strict=True))
    return answers


def _engine(
    query: CapacityQuery, key: EngineKey, load: Load, generation: Generation
) -> Engine | str:
    """Return one engine as it would run for these sizes, or why the model does not fit."""
    name, tensor_parallel = key
    accelerator, model = find_accelerator(name), query.model
    where = f"{tensor_parallel} × {accelerator.name}"
    if model.needs_bf16 and not accelerator.has_bf16:
        return f"{accelerator.name} has no bfloat16, which {model.dtype} needs in vLLM"
    if not model.splits_over(tensor_parallel):
        return f"{model.heads} heads ({model.kv_heads} for keys and values) cannot be split over {where}"
    replica = replica_model(model, accelerator, tensor_parallel, generation)
    if isinstance(replica, Misfit):
        shape = ReplicaShape(accelerator=accelerator.name, tensor_parallel=tensor_parallel)
        return misfit_reason(model, accelerator, shape, generation)
    if query.max_model_len is not None and replica.pool.tokens < query.max_model_len:
        return f"the KV cache of {where} holds {replica.pool.tokens} tokens, --max-model-len asks for {query.max_model_len}"
    longest = query.max_model_len or min(
        query.longest_request_tokens, model.context_tokens, replica.pool.tokens
    )
    sequences = knee_batch(replica, _servable(load, longest), query.slo)
    return Engine(
        replica=replica.with_max_num_seqs(sequences),
        max_model_len=max(1, longest),
        band=generation.error_band(accelerator.name),
    )


def _settings_of(
    query: CapacityQuery, shape: ReplicaShape, answer: EngineAnswer, generation: Generation
) -> EngineSettings:
    return EngineSettings(
        tensor_parallel=shape.tensor_parallel,
        data_parallel=shape.data_parallel,
        max_model_len=answer.engine.max_model_len,
        max_num_seqs=answer.engine.replica.max_num_seqs,
        gpu_memory_utilization=generation.schedule.gpu_memory_utilization,
        kv_cache_tokens=answer.engine.replica.pool.tokens,
        dtype=None,
    )


def _sizes(query: CapacityQuery) -> Load:
    """All buckets, row by row, in whole tokens; sizes below one token count as one."""
    flat = (
        np.array(m, dtype=np.float64).reshape(-1) for m in (query.input_sizes, query.output_sizes)
    )
    inputs, outputs = (np.maximum(np.round(sizes), 1.0) for sizes in flat)
    return Load(input_tokens=inputs, output_tokens=outputs)


def _servable(load: Load, longest: int) -> Load:
    """The sizes that fit into `max_model_len`, whatever their traffic; all where none does."""
    fits = load.input_tokens + load.output_tokens <= longest
    keep = fits if fits.any() else np.ones_like(fits)
    return Load(input_tokens=load.input_tokens[keep], output_tokens=load.output_tokens[keep])
