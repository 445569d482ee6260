"""How the GPUs of one replica share a model.

Four ways, which multiply: tensor parallelism splits every layer over GPUs (Shoeybi et al., arXiv
1909.08053), pipeline parallelism gives ranges of layers to stages that work in turn (Narayanan et al.,
arXiv 2104.04473), data parallelism runs several engines that share the requests, and expert
parallelism spreads the routed experts of those engines over all their GPUs, so that attention is
copied and the experts are not; the engines then step together (Rajbhandari et al., arXiv 2201.05596).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Parallelism:
    """One split of a replica's GPUs.

    `tensor` GPUs per stage, `pipeline` stages per engine, `data` engines. `experts_spread` True where
    each routed expert lies whole on one of all GPUs. `nodes` instances hold the replica, as many GPUs on
    each; a tensor group never leaves an instance.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    experts_spread: bool = False
    nodes: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of the replica, over all its nodes."""
        return self.tensor * self.pipeline * self.data

    @property
    def engine_gpus(self) -> int:
        """GPUs of one engine."""
        return self.tensor * self.pipeline

    @property
    def simulated_engines(self) -> int:
        """Like engines that the replica is simulated as: a pipeline works on a batch for each stage."""
        return self.data * self.pipeline

    @property
    def one_engine(self) -> Parallelism:
        """The split on which the speed of one engine depends: how many copies there are does not count."""
        return self if self.step_together else dataclasses.replace(self, data=1)

    @property
    def step_together(self) -> bool:
        """Whether the engines wait for each other in every step."""
        return self.experts_spread and self.data > 1

    @property
    def linked_gpus(self) -> int:
        """GPUs of one instance that exchange data in every layer."""
        if not self.experts_spread:
            return self.tensor
        return self.tensor * self.data // self.nodes

    @property
    def label(self) -> str:
        """The split in the field's short words, data parallelism left to the count of GPUs.

        >>> Parallelism(tensor=8, pipeline=2, nodes=2).label
        'tp8 pp2'
        >>> Parallelism(tensor=1, data=8, experts_spread=True).label
        'tp1 ep8'
        """
        words = [f"tp{self.tensor}"]
        if self.pipeline > 1:
            words.append(f"pp{self.pipeline}")
        if self.experts_spread:
            words.append(f"ep{self.tensor * self.data}")
        return " ".join(words)


class SplitFields(Protocol):
    """A record that says in fields of its own how GPUs share a model."""

    @property
    def tensor_parallel(self) -> int: ...
    @property
    def pipeline_parallel(self) -> int: ...
    @property
    def data_parallel(self) -> int: ...
    @property
    def expert_parallel(self) -> bool: ...
    @property
    def nodes(self) -> int: ...


def split_of(record: SplitFields) -> Parallelism:
    """Return the split that a record says."""
    return Parallelism(
        tensor=record.tensor_parallel,
        pipeline=record.pipeline_parallel,
        data=record.data_parallel,
        experts_spread=record.expert_parallel,
        nodes=record.nodes,
    )


class AssumedSplits(str, Enum):
    """Which splits are planned whose step times no measured run stands behind.

    Spread experts, pipeline stages and several nodes: those that save money even at the low end of
    what their error band adds (or that alone serve), all of them, or none.
    """

    ROBUST = "robust"
    ALL = "all"
    NONE = "none"
