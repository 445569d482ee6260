"""What a tensor-parallel group must not tear, and in words why a model cannot be split so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.parallelism import Parallelism


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitUnit:
    """`size` of something (`what`), of which a GPU can only hold whole units of `unit`.

    `kept` is what such a unit is called. `expert` True for those of routed experts. `parts`: split into
    no more than so many, which are then copied (key-value heads); None: into one for each GPU.
    """

    what: str
    size: int
    unit: int = 1
    kept: str = "unit"
    expert: bool = False
    parts: int | None = None

    def problem(self, tensor_parallel: int) -> str | None:
        """Return in words why it cannot be split over so many GPUs, None where it can.

        >>> SplitUnit(what="inputs of mlp.down_proj", size=29568, unit=128, kept="group").problem(2)
        '29568 inputs of mlp.down_proj make 14784 on each of 2 GPUs, no whole number of groups of 128'
        """
        parts = min(tensor_parallel, self.parts or tensor_parallel)
        if self.size % parts:
            return f"{self.size} {self.what} cannot be shared evenly by {parts} GPUs"
        each = self.size // parts
        if parts > 1 and each % self.unit:
            return (
                f"{self.size} {self.what} make {each} on each of {parts} GPUs, "
                f"no whole number of {self.kept}s of {self.unit}"
            )
        return None


class Splittable(Protocol):
    """What of a model decides how it can be split, see `models.shape.ModelShape`."""

    @property
    def layers(self) -> int: ...
    @property
    def in_stages(self) -> bool: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def split_units(self) -> Sequence[SplitUnit]: ...


def split_problem(model: Splittable, split: Parallelism) -> str | None:
    """Return what a split would tear, with numbers; None where engines take it."""
    if split.pipeline > model.layers:
        return f"{model.layers} layers cannot make {split.pipeline} stages"
    if split.pipeline > 1 and not model.in_stages:
        return "its layers share weights or caches with distant ones, so that no pipeline can cut between them"
    tp = split.tensor
    if model.heads % tp:
        return f"{model.heads} attention heads cannot be shared evenly by {tp} GPUs"
    if model.kv_heads % tp and tp % model.kv_heads:
        return (
            f"{model.kv_heads} key-value heads can neither be shared nor copied evenly by {tp} GPUs"
        )
    units = (unit for unit in model.split_units if not (unit.expert and split.experts_spread))
    return next(filter(None, (unit.problem(tp) for unit in units)), None)
