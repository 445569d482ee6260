"""The splits of each kind of instance, those kept out, and why a model does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from melange_sky.accelerators import accelerator_table
from melange_sky.offers import accelerator_spec_text, gpu_of
from melange_sky.planner.pcie_splits import (
    Gpus,
    left_out_splits,
    other_splits,
    over_pcie_splits,
)
from melange_sky.plans import PlanWarning
from melange_sky.profiles import (
    ReplicaShape,
    engine_generation,
    enough_nodes,
    holding,
    nearest_split,
    sensible_splits,
)
from melange_sky.topology import topology_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from melange_sky.offers import Offer
    from melange_sky.profiles import CapacityQuery, ReplicaCapacity


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRules:
    """Which splits may be planned: `over_pcie` tensor groups of many PCIe cards too, and replicas of
    up to `nodes` instances.
    """

    over_pcie: bool = False
    nodes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSplits:
    """The splits to weigh by kind of instance; where none is sensible, one stands for the reason.

    `slow` holds those kept out for their links.
    """

    kept: Mapping[Gpus, tuple[ReplicaShape, ...]]
    slow: Mapping[Gpus, tuple[ReplicaShape, ...]]

    def of(self, offer: Offer) -> tuple[ReplicaShape, ...]:
        """Return the splits of an offer's instances."""
        return self.kept[gpus_of(offer)]

    @property
    def flat(self) -> list[ReplicaShape]:
        """Every split once per kind of instance."""
        return [shape for group in self.kept.values() for shape in group]


def gpus_of(offer: Offer) -> Gpus:
    """Return an instance's very GPU (the one whose figures count), how many it has, and their links."""
    name = gpu_of(offer)
    topology = topology_of(offer.cloud, offer.instance_type, accelerator_table()[name])
    return name, int(offer.accelerator_count), topology.links


def instance_splits(
    query: CapacityQuery, offers: Iterable[Offer], rules: SplitRules
) -> InstanceSplits:
    """Return the splits of every kind of instance among the offers."""
    table, model = accelerator_table(), query.model
    shapes, fits, held = {}, {}, holding(model, engine_generation(query.generation))
    offer_of = {gpus_of(offer): offer for offer in offers}
    for gpus, offer in sorted(offer_of.items(), key=itemgetter(0)):
        name, count, _ = gpus
        splits = [
            split
            for nodes in range(1, rules.nodes + 1)
            for split in sensible_splits(model, table[name], count, nodes, held=held)
        ]
        shapes[gpus] = tuple(
            ReplicaShape.split_as(name, split, offer)
            for split in splits or [nearest_split(model, count)]
        )
        if splits:
            fits[gpus] = shapes[gpus]
    slow = {} if rules.over_pcie else over_pcie_splits(fits)
    kept = {
        gpus: tuple(shape for shape in group if shape not in slow.get(gpus, ()))
        for gpus, group in shapes.items()
    }
    return InstanceSplits(kept=kept, slow=slow)


def misfit_notes(
    query: CapacityQuery,
    splits: InstanceSplits,
    replicas: Mapping[ReplicaShape, ReplicaCapacity],
    rules: SplitRules,
) -> list[PlanWarning]:
    """Say which kinds of instances are left out, why, and what would let them in."""
    left_out = {gpus: group for gpus, group in splits.slow.items() if not splits.kept[gpus]}
    kept = {gpus: group for gpus, group in splits.kept.items() if group}
    fits = {gpus for gpus, group in kept.items() if _any_fits(group, replicas)}
    named = {name for name, _, _ in fits}
    most = {name: max(n for other, n, _ in kept if other == name) for name, _, _ in kept}
    missed = {
        gpus: group
        for gpus, group in splits.slow.items()
        if gpus in fits and not any(_is_plain(shape) for shape in kept[gpus])
    }
    rows, small = [*left_out_splits(left_out), *other_splits(missed)], []
    for gpus in sorted(kept.keys() - fits):
        name, count, _ = gpus
        text = accelerator_spec_text(name, count)
        if name in named:
            small.append(text)
            continue
        reason = replicas[kept[gpus][0]].reason or "the model does not fit"
        more = _more_nodes(query, name, count, rules) if count == most[name] else ""
        rows.append(PlanWarning(code="does-not-fit", message=f"{text}: {reason}{more}"))
    if small:
        message = f"too small for the model and left out: {', '.join(small)}"
        rows.append(PlanWarning(code="does-not-fit", message=message))
    return rows


def _is_plain(shape: ReplicaShape) -> bool:
    """Whether each engine is one tensor group, so that a larger group over PCIe is not missed."""
    return shape.split.pipeline == 1 and shape.split.nodes == 1 and not shape.split.experts_spread


def _any_fits(
    group: Iterable[ReplicaShape], replicas: Mapping[ReplicaShape, ReplicaCapacity]
) -> bool:
    return any(replicas[shape].settings is not None for shape in group)


def _more_nodes(query: CapacityQuery, name: str, count: int, rules: SplitRules) -> str:
    """Return what a replica over more instances would need, empty where a few hold it no better."""
    accelerator = accelerator_table()[name]
    if query.engine.misfit(query.model, accelerator) is not None:
        return ""
    nodes = enough_nodes(query.model, accelerator, count, query.generation, rules.nodes)
    if nodes is None:
        return ""
    return (
        f"; resources.max_nodes_per_replica: {nodes} plans it over {nodes} instances of "
        f"{accelerator_spec_text(name, count)}"
    )
