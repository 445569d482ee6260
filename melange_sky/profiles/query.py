"""The question asked of profiles and its answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.names.accelerators import find_accelerator
from melange_sky.parallelism import Parallelism, split_of
from melange_sky.topology import topology_of

if TYPE_CHECKING:
    from melange_sky.accelerators import Links
    from melange_sky.capacities import CapacityCell, DeploymentOption, EngineSettings
    from melange_sky.engines import Engine
    from melange_sky.models import ModelShape
    from melange_sky.offers import Offer
    from melange_sky.reuse import Reuse
    from melange_sky.slo import SLO
    from melange_sky.workload import Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShape:
    """One replica: so many GPUs of an accelerator and how they share the model, see `Parallelism`.

    `links` is how the GPUs reach each other that exchange data in every layer, None as the card's
    usually do.
    """

    accelerator: str
    tensor_parallel: int
    data_parallel: int = 1
    links: Links | None = None
    pipeline_parallel: int = 1
    expert_parallel: bool = False
    nodes: int = 1

    @classmethod
    def split_as(
        cls, accelerator: str, split: Parallelism, offer: Offer | None = None
    ) -> ReplicaShape:
        """Return the replica of an accelerator whose GPUs are split so, linked as an offer's are."""
        return cls(
            accelerator=accelerator,
            tensor_parallel=split.tensor,
            data_parallel=split.data,
            links=group_links(offer, accelerator, split.linked_gpus),
            pipeline_parallel=split.pipeline,
            expert_parallel=split.experts_spread,
            nodes=split.nodes,
        )

    @classmethod
    def of(cls, option: DeploymentOption) -> ReplicaShape:
        """Return the replica that an option runs: its very GPU, in tensor parallel where nothing is set."""
        engine = option.engine
        split = Parallelism(tensor=option.accelerator_count) if engine is None else engine.split
        return cls.split_as(option.gpu, split, option.offer)

    @property
    def split(self) -> Parallelism:
        """How the GPUs share the model."""
        return split_of(self)

    @property
    def gpus(self) -> int:
        """GPUs of the replica, over all its nodes."""
        return self.split.gpus


def group_links(offer: Offer | None, gpu: str, gpus: int) -> Links | None:
    """Return how a group of so many GPUs of an offer's instance type is linked; None for one GPU."""
    if offer is None or gpus == 1:
        return None
    topology = topology_of(offer.cloud, offer.instance_type, find_accelerator(gpu))
    return topology.within(gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityQuery:
    """What to serve: model, SLO and request sizes.

    `input_sizes`, `output_sizes`: planning sizes per bucket in tokens, shape (I × O). `needed`: cells
    to compute; the others come back None with the reason "no traffic". `longest_request_tokens`:
    input + output of the longest request to admit. `progress` is called with (done, total) cells.
    `exact` simulates every size anew (or takes it from the cache) where else a shipped table would be
    interpolated; with `simulate` False the closed form guesses what no table and no earlier simulation
    answers; `measured` lets the user's own tables override estimates. `engine_args` are the user's
    arguments of `engine`, which `model` already follows; tables measured under others do not count, nor
    those of other engines. `max_model_len` is the longest request among the arguments: every replica
    must hold it. With `bounded` sizes that no table and no earlier simulation answers have the most that
    simulation could find (`Origin.BOUND`), until `CapacityLookup.simulate` is asked for them. `generation` names the constants of the estimates. With `levels` the rates at attainments
    above the SLO's are told too, and those that saturate a replica where that is worth knowing. `reuse` is what the
    prompts share: tables measured with some count only where it is of the like.
    """

    model: ModelShape
    slo: SLO
    input_sizes: Matrix
    output_sizes: Matrix
    needed: tuple[tuple[bool, ...], ...] | None = None
    longest_request_tokens: int
    engine: Engine = DEFAULT_ENGINE
    generation: str = DEFAULT_ENGINE.generation
    progress: Callable[[int, int], None] | None = None
    exact: bool = False
    simulate: bool = True
    measured: bool = True
    engine_args: tuple[str, ...] = ()
    max_model_len: int | None = None
    levels: bool = False
    bounded: bool = False
    reuse: Reuse | None = None

    @property
    def engine_label(self) -> str:
        """The engine's name, or the generation where that is not the engine's own choice."""
        own = self.generation == self.engine.generation
        return self.engine.name if own else self.generation


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaCapacity:
    """What one replica carries, shape of `cells` (I × O).

    `settings` is None where the model does not fit; then `reason` says what is missing and what would
    fit, and every cell is None with the same reason.
    """

    shape: ReplicaShape
    settings: EngineSettings | None
    cells: tuple[tuple[CapacityCell, ...], ...]
    reason: str | None = None
