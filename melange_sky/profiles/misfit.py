"""Why a model does not fit on a replica, and what would."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from melange_sky.steps import Misfit, kv_pool
from melange_sky.steps.memory import GIB

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.profiles.query import ReplicaShape
    from melange_sky.steps import Generation

_SPLITS = (1, 2, 4, 8, 16)


def misfit_reason(
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
    splits = (tp for tp in _SPLITS if tp > shape.tensor_parallel and model.splits_over(tp))
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
