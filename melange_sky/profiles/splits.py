"""Which splits of an instance's GPUs are worth weighing, and why others are not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.parallelism import Parallelism
from melange_sky.profiles.constants import engine_generation
from melange_sky.steps import holds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.steps import Generation

Holding = Callable[["AcceleratorSpec", Parallelism], bool]
"""Whether GPUs of a kind in a split hold one model and a cache."""


def holding(model: ModelShape, generation: Generation) -> Holding:
    """Return what tells whether GPUs hold a model, each kind of engine looked at once."""

    @functools.cache
    def engine_holds(accelerator: AcceleratorSpec, engine: Parallelism) -> bool:
        return holds(model, accelerator, engine, generation)

    return lambda accelerator, split: engine_holds(accelerator, split.one_engine)


def sensible_splits(
    model: ModelShape,
    accelerator: AcceleratorSpec,
    count: int,
    nodes: int = 1,
    *,
    held: Holding | None = None,
) -> tuple[Parallelism, ...]:
    """Return the splits of `nodes` instances with `count` GPUs each, smallest tensor group first.

    Only those that tear nothing and on which the model fits. Pipelines only of tensor groups that do
    not hold the model by themselves: else as many copies of the group do the same work on the same GPUs
    and wait for nobody. (A pipeline leaves more room for the cache than copies; so does a larger tensor
    group.) Over several nodes only what needs all of them: one pipeline, or experts spread over all.
    `held` is what `holding` says of the model; None: by the default engine's figures.
    """
    held = held or holding(model, engine_generation(DEFAULT_ENGINE.generation))
    return tuple(splits_of(model, accelerator, held, count, nodes))


def splits_of(
    model: ModelShape,
    accelerator: AcceleratorSpec,
    held: Holding,
    count: int,
    nodes: int = 1,
) -> Iterator[Parallelism]:
    """Yield the splits of `sensible_splits`."""
    for tensor in _divisors(count):
        for split in _of_tensor_groups(model, accelerator, held, tensor, (count, nodes)):
            if model.split_problem(split) is None and held(accelerator, split):
                yield split


MOST_NODES_TOLD = 8
"""Instances of one replica that are still worth telling somebody whose model fits on none."""


def enough_nodes(
    model: ModelShape, accelerator: AcceleratorSpec, count: int, generation: str, nodes: int = 1
) -> int | None:
    """Return how many instances hold a model that `nodes` of them do not, None where a few do not either."""
    held = holding(model, engine_generation(generation))
    more = range(nodes + 1, MOST_NODES_TOLD + 1)
    return next((n for n in more if any(splits_of(model, accelerator, held, count, n))), None)


def refused_splits(model: ModelShape, count: int) -> tuple[tuple[int, str], ...]:
    """Return (GPUs of a tensor group, why not) for each size that divides an instance and tears the model."""
    problems = (
        (tensor, model.split_problem(Parallelism(tensor=tensor))) for tensor in _divisors(count)
    )
    return tuple((tensor, problem) for tensor, problem in problems if problem is not None)


def nearest_split(model: ModelShape, count: int) -> Parallelism:
    """Return the split of an instance that says best why none is sensible: one that tears nothing."""
    whole, stages = Parallelism(tensor=count), Parallelism(pipeline=count)
    torn = model.split_problem(whole) is not None and model.split_problem(stages) is None
    return stages if torn else whole


def _of_tensor_groups(
    model: ModelShape,
    accelerator: AcceleratorSpec,
    held: Holding,
    tensor: int,
    machine: tuple[int, int],
) -> Iterator[Parallelism]:
    """Yield the splits into tensor groups of one size on (GPUs per node, nodes), fit or not."""
    count, nodes = machine
    group = Parallelism(tensor=tensor)
    if held(accelerator, group):
        if nodes == 1:
            yield dataclasses.replace(group, data=count // tensor)
    elif nodes == 1:
        for stages in _divisors(count // tensor)[1:]:
            yield dataclasses.replace(group, pipeline=stages, data=count // tensor // stages)
    else:
        yield dataclasses.replace(group, pipeline=nodes * count // tensor, nodes=nodes)
    engines = nodes * count // tensor
    if not model.experts or model.experts % (tensor * engines) or tensor * engines == 1:
        return
    if engines > 1 or model.split_problem(group) is not None:
        # in one tensor group whole experts do the same work as split ones, which may be torn
        yield Parallelism(tensor=tensor, data=engines, experts_spread=True, nodes=nodes)


def _divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]
