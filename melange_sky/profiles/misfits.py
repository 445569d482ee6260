"""Why a model cannot run on some GPUs, in words with numbers, and what would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.profiles.splits import holding, splits_of
from melange_sky.steps import holds
from melange_sky.steps.memory import GIB

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.models import ModelShape
    from melange_sky.parallelism import Parallelism
    from melange_sky.steps import Generation, Misfit

_MORE_GPUS = (2, 4, 8, 16)
"""GPUs of the instances that clouds sell, the largest of a few."""

_SMALLER_FORMS = (("fp8", 1.0), ("4-bit (AWQ or GPTQ)", 0.55))


def torn(model: ModelShape, accelerator: AcceleratorSpec, split: Parallelism) -> str | None:
    """Return why no engine takes such a split, None where engines do."""
    problem = model.split_problem(split)
    if problem is None:
        return None
    return f"{model.name[:80]} cannot be split over {split.gpus} × {accelerator.name}: {problem}"


def out_of_memory(
    model: ModelShape,
    accelerator: AcceleratorSpec,
    split: Parallelism,
    generation: Generation,
    misfit: Misfit,
) -> str:
    """Say how much memory is missing and which number of GPUs or form of the weights would fit."""
    text = (
        f"{model.name[:80]} ({model.weight_bytes / GIB:.1f} GiB of weights) does not fit on "
        f"{split.gpus} × {accelerator.name}: {misfit.missing_bytes / GIB:.1f} GiB missing"
    )
    ways = []
    more, held = (n for n in _MORE_GPUS if n > split.gpus), holding(model, generation)
    enough = next((n for n in more if any(splits_of(model, accelerator, held, n))), None)
    if enough is not None:
        ways.append(f"{enough} × {accelerator.name}")
    for name, size in _SMALLER_FORMS if model.value_bytes <= 2.0 else ():
        smaller = model.in_bytes(size)
        fits = holds(smaller, accelerator, split, generation)
        if fits and smaller.weight_bytes < model.weight_bytes:
            ways.append(f"{name} weights")
            break
    return f"{text}; {' or '.join(ways)} would fit" if ways else text
