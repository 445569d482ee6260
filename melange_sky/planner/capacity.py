"""How many requests per second each option sustains at given sizes: what `capacity` does."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.engines import DEFAULT_ENGINE, ENGINES
from melange_sky.errors import InfeasibleError, InputError, MelangeError, did_you_mean
from melange_sky.names.accelerators import find_accelerator
from melange_sky.offers import parse_accelerator
from melange_sky.parallelism import Parallelism
from melange_sky.planner.figures import slo_of, token_sizes
from melange_sky.planner.model_files import load_typed
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.profiles import (
    CapacityQuery,
    ReplicaShape,
    engine_generation,
    engine_generations,
    enough_nodes,
    holding,
    nearest_split,
    refused_splits,
    replica_capacities,
    sensible_splits,
    table_notes,
    tables_to_ship,
    write_table,
)
from melange_sky.settings import is_offline

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.engines import Engine
    from melange_sky.models import ModelShape
    from melange_sky.offers import Offer
    from melange_sky.profiles import ReplicaCapacity

log = logging.getLogger(__name__)

MOST_GPUS = 64
"""GPUs in one instance."""

MOST_NODES = 16
"""Instances of one replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityOptions:
    """What to ask: the flags of `capacity`, by their names; a limit that is None does not bind.

    `engine` is an engine, or a generation whose constants give the estimates. A replica takes up to
    `max_nodes` instances of an option.
    """

    model: str
    accelerators: str | Sequence[str]
    inputs: str | Sequence[int]
    outputs: str | Sequence[int]
    tpot_ms: float | None = None
    ttft_ms: float | None = None
    attainment: float = 0.95
    engine: str = DEFAULT_ENGINE.name
    quantization: str | None = None
    dtype: str | None = None
    kv_cache_dtype: str | None = None
    max_nodes: int = 1
    offline: bool = False

    @property
    def engine_args(self) -> tuple[str, ...]:
        """The engine's arguments that say how the model is held."""
        flags = (
            ("--quantization", self.quantization),
            ("--dtype", self.dtype),
            ("--kv-cache-dtype", self.kv_cache_dtype),
        )
        return tuple(word for name, value in flags if value is not None for word in (name, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionCapacities:
    """One option's best split: what a replica carries, and the cheapest offer of an instance.

    `refused` are the sizes of tensor groups that no engine takes, each with the reason.
    """

    label: str
    replica: ReplicaCapacity
    offer: Offer | None
    refused: tuple[tuple[int, str], ...] = ()

    @property
    def price_usd_per_hour(self) -> float | None:
        """What all instances of a replica cost together, None where no price is known."""
        if self.offer is None or self.offer.price_usd_per_hour is None:
            return None
        return self.replica.shape.nodes * self.offer.price_usd_per_hour


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityAnswer:
    """What each option carries at the sizes of the query, rows input and columns output tokens."""

    options: CapacityOptions
    query: CapacityQuery
    rows: tuple[OptionCapacities, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityQuestion:
    """A checked question: the query, each option's splits by its label, and what must be said of it."""

    options: CapacityOptions
    query: CapacityQuery
    shapes: Mapping[str, Sequence[ReplicaShape]]
    warnings: tuple[str, ...] = ()

    @property
    def all_shapes(self) -> list[ReplicaShape]:
        """Every split of every option."""
        return [shape for group in self.shapes.values() for shape in group]


def ask_capacity(options: CapacityOptions) -> CapacityQuestion:
    """Check the options and return the question; nothing is computed yet.

    Raises InputError for an unknown model, accelerator or engine and for sizes that are none.
    """
    if not 1 <= options.max_nodes <= MOST_NODES:
        raise InputError(f"--max-nodes: must be between 1 and {MOST_NODES}")
    inputs = token_sizes("--input", options.inputs)
    outputs = token_sizes("--output", options.outputs)
    engine, generation = _engine(options.engine)
    model = _model(options, engine)
    longest, warnings = max(inputs) + max(outputs), list(model.notes)
    if engine.generation_note is not None:
        warnings.append(engine.generation_note)
    if longest > model.context_tokens:
        warnings.append(
            f"{longest} tokens exceed the context of {model.context_tokens} of {model.name}; "
            "computed as if it were longer"
        )
        model = replace(model, context_tokens=longest)
    query = CapacityQuery(
        model=model,
        slo=slo_of(options.tpot_ms, options.ttft_ms, options.attainment),
        input_sizes=tuple(tuple(float(i) for _ in outputs) for i in inputs),
        output_sizes=tuple(tuple(float(o) for o in outputs) for _ in inputs),
        longest_request_tokens=longest,
        engine=engine,
        generation=generation,
        exact=True,
        engine_args=options.engine_args,
    )
    shapes = _shapes(model, options, generation)
    flat = [shape for group in shapes.values() for shape in group]
    log.info("%d options in %d splits", len(shapes), len(flat))
    return CapacityQuestion(
        options=options,
        query=query,
        shapes=shapes,
        warnings=(*warnings, *table_notes(query, flat)),
    )


def answer_capacity(
    question: CapacityQuestion, progress: Callable[[int, int], None] | None = None
) -> CapacityAnswer:
    """Return each option's best split: the one that serves most sizes, then the most requests per node.

    `progress` hears of simulated cells (done, total). Raises InfeasibleError where no option fits.
    """
    flat = question.all_shapes
    query = replace(question.query, progress=progress)
    by_shape = dict(zip(flat, replica_capacities(query, flat), strict=True))
    best = {
        label: max((by_shape[shape] for shape in group), key=_merit)
        for label, group in question.shapes.items()
    }
    for label, replica in best.items():
        log.debug("%s: %s", label, replica.reason or replica.settings)
    if all(replica.settings is None for replica in best.values()):
        reasons = dict.fromkeys(_why(replica, query) for replica in best.values())
        raise InfeasibleError("no option fits: " + "; ".join(reasons))
    return CapacityAnswer(
        options=question.options,
        query=question.query,
        rows=tuple(
            OptionCapacities(
                label=label,
                replica=replica,
                offer=_cheapest(replica.shape),
                refused=refused_splits(query.model, replica.shape.gpus // replica.shape.nodes),
            )
            for label, replica in best.items()
        ),
        warnings=question.warnings,
    )


def _why(replica: ReplicaCapacity, query: CapacityQuery) -> str:
    """Return why an option does not fit, and how many of its instances would."""
    shape, reason = replica.shape, replica.reason or "does not fit"
    accelerator = find_accelerator(shape.accelerator)
    if query.engine.misfit(query.model, accelerator) is not None:
        return reason
    nodes = enough_nodes(query.model, accelerator, shape.gpus, query.generation)
    return reason if nodes is None else f"{reason} (--max-nodes {nodes} weighs {nodes} instances)"


def write_estimates(
    question: CapacityQuestion,
    path: Path,
    command: str,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Add simulated ÷ analytic rates of every split to a file that plans read; return how many tables.

    `command` is what made them, kept in the file. Raises InputError where it cannot be written.
    """
    query = replace(question.query, progress=progress)
    grid = (
        [int(row[0]) for row in query.input_sizes],
        [int(size) for size in query.output_sizes[0]],
    )
    engines = [s for s in question.all_shapes if s.split == Parallelism(tensor=s.tensor_parallel)]
    tables = tables_to_ship(query, engines)
    try:
        write_table(path, command, grid, tables)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be written as a table of estimates: {error}") from error
    return len(tables)


def _engine(name: str) -> tuple[Engine, str]:
    """Return the engine and the generation whose constants give the estimates.

    A generation's name stands for itself, with the flags of the default engine.
    """
    if name in ENGINES:
        return ENGINES[name], ENGINES[name].generation
    generations = engine_generations()
    if name not in generations:
        known = list(dict.fromkeys([*ENGINES, *generations]))
        raise InputError(
            f"unknown engine '{name[:40]}'{did_you_mean(name, known)}; known: {', '.join(known)}"
        )
    return DEFAULT_ENGINE, name


def _model(options: CapacityOptions, engine: Engine) -> ModelShape:
    """Return the model as the flags let the engine hold it."""
    loaded = load_typed(options.model, offline=is_offline(options.offline))
    return loaded.held(engine, options.engine_args)


def _shapes(
    model: ModelShape, options: CapacityOptions, generation: str
) -> dict[str, list[ReplicaShape]]:
    """Return, per option, its splits; one that does not fit stands for the reason."""
    names = options.accelerators
    shapes, held = {}, holding(model, engine_generation(generation))
    for word in names.split(",") if isinstance(names, str) else names:
        label, name, gpus = _accelerator(word.strip())
        splits = [
            split
            for nodes in range(1, options.max_nodes + 1)
            for split in sensible_splits(model, find_accelerator(name), gpus, nodes, held=held)
        ]
        shapes[label] = [
            ReplicaShape.split_as(name, split) for split in splits or [nearest_split(model, gpus)]
        ]
    return shapes


def _accelerator(word: str) -> tuple[str, str, int]:
    """Return an option's label, its accelerator's name and the GPUs of a replica."""
    try:
        name, count = parse_accelerator(word)
    except ValueError as error:
        raise InputError(f"--accelerators: {error}") from error
    name = find_accelerator(name).name
    gpus = int(count or 1)
    if count is not None and count != gpus:
        raise InputError(f"--accelerators: {word[:60]}: a replica needs whole GPUs")
    if gpus > MOST_GPUS:
        raise InputError(f"--accelerators: {word[:60]}: at most {MOST_GPUS} GPUs in one instance")
    return (name if count is None else f"{name}:{gpus}"), name, gpus


def _merit(replica: ReplicaCapacity) -> tuple[int, float]:
    nodes = replica.shape.nodes
    rates = [c.max_rate_rps for row in replica.cells for c in row if c.max_rate_rps is not None]
    return len(rates), sum(math.log(rate / nodes) for rate in rates)


def _cheapest(shape: ReplicaShape) -> Offer | None:
    """Return the cheapest unflagged on-demand offer of one of the replica's instances that is known offline."""
    each = shape.gpus // shape.nodes
    query = OfferQuery(accelerators=(f"{shape.accelerator}:{each}",), offline=True)
    try:
        book = load_offers(query)
    except MelangeError:
        return None
    sold = [o for o in book.offers if o.price_usd_per_hour and not o.blocked(False)]
    return min(sold, key=lambda o: (o.price_usd_per_hour or 0.0, o.cloud, o.region), default=None)
