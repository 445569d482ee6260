"""What a plan that reads well must also mean: numbers that can be, shares that add up, names that are one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from melange_sky.capacities import EngineSettings
    from melange_sky.models import ModelShape
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.workload import Workload

MAY_BE_NEGATIVE = frozenset(
    {"mip_gap", "saving_fraction", "saving_usd_per_hour", "premium_usd_per_hour", "pads"}
)
"""Fields of a plan that are differences."""

LARGEST = 1e18
SMALLEST = 1e-9
LARGEST_BY_END = {"_rps": 1e12, "instances": 1e6, "nodes": 1e4, "_edges": 1e9, "_sizes": 1e9}
MOST_PARTS = 100_000
LONGEST_TOKENS = 1_000_000_000
SHARES_TOLERANCE = 1e-3
STATUSES = ("optimal", "feasible")


def check_plan(plan: Plan, where: str) -> None:
    """Raise InputError with the key of the first thing in a plan that cannot be meant."""
    whole = replace(plan, models=())
    check_numbers(whole, where)
    if not 0 < plan.confidence < 1:
        raise InputError(f"{where}: confidence: must be above 0 and below 1")
    if not plan.headroom < 1:
        raise InputError(f"{where}: headroom: must be below 1")
    if plan.solver.status not in STATUSES:
        raise InputError(f"{where}: status: must be {' or '.join(STATUSES)}")
    names = [model.name for model in plan.models]
    for n, model in enumerate(plan.models):
        at = f"{where}: models.{n}" if plan.lists_models else where
        if names.count(model.name) > 1:
            raise InputError(f"{at}.name: two models have the name '{model.name[:60]}'")
        _check_model(model, at)


def _check_model(model: ModelPlan, where: str) -> None:
    for candidate in model.candidates:
        option = candidate.option
        at = f"{where}: candidates.{option.name[:60]}"
        check_numbers(option, at)
        check_engine(option.engine, f"{at}.engine")
    check_numbers(replace(model, candidates=(), allocations=()), where)
    for form in model.forms:
        check_shape(form.shape, f"{where}: forms.{form.name[:60]}.shape")
    check_shape(model.model_shape, f"{where}: model_shape")
    check_workload(model.workload, f"{where}: workload")
    check_allocations(model, where)


def check_numbers(value: object, where: str) -> None:
    """Raise InputError naming the first number below `value` that cannot be what its field says."""
    problem = _wrong(value, "", LARGEST, negative=False)
    if problem is not None:
        raise InputError(f"{where}{problem}")


def _wrong(value: object, path: str, largest: float, *, negative: bool) -> str | None:
    """Return the path of a wrong number and what is wrong with it, None where all are right."""
    if isinstance(value, int | float):
        return _wrong_number(value, path, largest, negative=negative)
    if isinstance(value, str):
        return None if _is_text(value) else f"{path}: holds half a character, which is no text"
    if value is None:
        return None
    if isinstance(value, Mapping):
        return _first(value.items(), path, largest, negative=negative)
    if isinstance(value, tuple | list):
        return _first(enumerate(value), path, largest, negative=negative)
    if not is_dataclass(value) or isinstance(value, type):
        return None
    for name, most, may_be_negative in _numbers_of(type(value)):
        below = getattr(value, name)
        if below is None:
            continue
        problem = _wrong(below, f"{path}.{name}", min(largest, most), negative=may_be_negative)
        if problem is not None:
            return problem
    return None


def _first(
    items: Iterable[tuple[Any, object]], path: str, largest: float, *, negative: bool
) -> str | None:
    for key, value in items:
        problem = _wrong(value, f"{path}.{str(key)[:60]}", largest, negative=negative)
        if problem is not None:
            return problem
    return None


def _is_text(value: str) -> bool:
    """Return whether a string can be written: JSON may hold one half of a surrogate pair."""
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _wrong_number(value: float, path: str, largest: float, *, negative: bool) -> str | None:
    if value < 0 and not negative:
        return f"{path}: must not be negative"
    if abs(value) > largest or (isinstance(value, float) and not math.isfinite(value)):
        return f"{path}: must be a number of at most {largest:g}"
    return None


@cache
def _numbers_of(kind: type) -> tuple[tuple[str, float, bool], ...]:
    """Return name, largest value and whether it may be negative of each field of a dataclass."""
    return tuple(
        (
            field.name,
            next(
                (most for end, most in LARGEST_BY_END.items() if field.name.endswith(end)), LARGEST
            ),
            field.name in MAY_BE_NEGATIVE,
        )
        for field in fields(kind)
    )


def check_engine(engine: EngineSettings | None, where: str) -> None:
    """Raise InputError where an engine would start with none of what it needs."""
    for name in ("tensor_parallel", "data_parallel", "pipeline_parallel", "nodes", "max_num_seqs"):
        if engine is not None and not 1 <= getattr(engine, name) <= MOST_PARTS:
            raise InputError(f"{where}.{name}: must be from 1 to {MOST_PARTS}")
    if engine is not None and not 1 <= engine.max_model_len <= LONGEST_TOKENS:
        raise InputError(f"{where}.max_model_len: must be from 1 to {LONGEST_TOKENS}")


def check_shape(shape: ModelShape | None, where: str) -> None:
    """Raise InputError where a model has no layers, or layers that are none."""
    if shape is None:
        return
    for kind in (*shape.groups, shape.head, shape.lookup, shape.towers):
        if any(0 < number < SMALLEST for number in _numbers_in(kind)):
            raise InputError(f"{where}: holds a number above 0 and below {SMALLEST:g}")
    for name in ("hidden_size", "heads", "kv_heads", "vocabulary", "context_tokens"):
        if getattr(shape, name) < 1:
            raise InputError(f"{where}.{name}: must be at least 1")
    if shape.kv_dtype_bytes < SMALLEST:
        raise InputError(f"{where}.kv_dtype_bytes: must be above 0")
    if not shape.groups or any(group.count < 1 for group in shape.groups):
        raise InputError(f"{where}.groups: must be groups of at least one layer each")
    if not any(g.kv_values > 0 or g.fixed_bytes > 0 or g.window_values > 0 for g in shape.groups):
        raise InputError(f"{where}.groups: none of them keeps keys and values")


def _numbers_in(value: object) -> Iterable[float]:
    """Yield every number of a dataclass and of those in it."""
    for field in fields(value):  # type: ignore[arg-type]
        below = getattr(value, field.name)
        if isinstance(below, int | float):
            yield below
        elif is_dataclass(below):
            yield from _numbers_in(below)


def check_workload(workload: Workload, where: str) -> None:
    """Raise InputError where a workload has no buckets, or rates or sizes that no requests have."""
    for key, edges in (
        ("input_edges", workload.input_edges),
        ("output_edges", workload.output_edges),
    ):
        rises = all(a < b for a, b in itertools.pairwise(edges))
        if len(edges) < 2 or not rises:
            raise InputError(f"{where}.{key}: must be two or more numbers, each above the last")
    if not any(rate > 0 for row in workload.rates_rps for rate in row):
        raise InputError(f"{where}.rates_rps: at least one bucket must have a rate")
    for i, row in enumerate(workload.rates_rps):
        for j, rate in enumerate(row):
            sizes = workload.input_sizes[i][j], workload.output_sizes[i][j]
            if rate > 0 and not all(size > 0 for size in sizes):
                raise InputError(f"{where}.input_sizes: bucket {i}, {j} has a rate and no size")


def check_allocations(model: ModelPlan, where: str) -> None:
    """Raise InputError where a model's allocations do not serve its requests, once each."""
    if not model.allocations:
        raise InputError(f"{where}: allocations: a plan has at least one")
    names = [a.candidate.option.name for a in model.allocations]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: allocations.{twice[:60]}: is there twice")
    for i, j in model.workload.buckets():
        served = sum(a.shares[i][j] for a in model.allocations)
        if abs(served - 1) > SHARES_TOLERANCE:
            raise InputError(
                f"{where}: allocations: the shares of bucket {i}, {j} add up to {served:.4g}, not to 1"
            )
        for allocation in model.allocations:
            if allocation.late_share(i, j) > allocation.shares[i][j] + SHARES_TOLERANCE:
                name = allocation.candidate.option.name[:60]
                raise InputError(f"{where}: allocations.{name}: more is late than it serves")
            can = allocation.candidate.cells[i][j].largest_rps
            if allocation.shares[i][j] > SHARES_TOLERANCE and not can:
                name = allocation.candidate.option.name[:60]
                raise InputError(
                    f"{where}: allocations.{name}: serves bucket {i}, {j}, of which it can serve none"
                )
