"""What replicas carry of prompts that are found in part in their prefix caches.

The found part is spared of the prefill work, not of the KV cache. Rates that are known of cold prompts
grow as the closed form says that they do: its ratio is smooth where its scale may be off.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.capacities import Origin, weakest
from melange_sky.prefixes.hashes import BLOCK_TOKENS
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.simulator.state import caches_prefixes
from melange_sky.steps import Misfit, RequestSizes, capacity_estimate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.capacities import CapacityCell, DeploymentOption, OptionCapacity
    from melange_sky.profiles import CapacityQuery
    from melange_sky.steps import ReplicaModel

MOST_FOUND = 0.95
"""Of a prompt no more is taken to be found on average."""

Hits = dict[str, tuple[float, ...]]
"""By an option's name, the fraction of the prompt tokens of each input bucket that its replicas find."""


def replica_with_cache(query: CapacityQuery, option: DeploymentOption) -> ReplicaModel | None:
    """Return the engine of an option's replicas, None where its prefix cache is not counted on.

    Of layers that forget (windows, states) the engine finds less, or keeps no such cache at all.
    """
    engine = option.engine
    if engine is None or not query.engine.caches_prefixes(query.engine_args):
        return None
    replica = engine_replica(query.model, ReplicaShape.of(option), query.generation)
    if isinstance(replica, Misfit) or not caches_prefixes(replica, BLOCK_TOKENS):
        return None
    return replica.with_max_num_seqs(max(1, engine.max_num_seqs // engine.pipeline_parallel))


def with_hits(
    options: Sequence[OptionCapacity], query: CapacityQuery, hits: Mapping[str, Sequence[float]]
) -> list[OptionCapacity]:
    """Return the options with the rates of prompts of which so much is found."""
    found: list[OptionCapacity] = []
    for capacity in options:
        rows = hits.get(capacity.option.name)
        replica = None if rows is None else replica_with_cache(query, capacity.option)
        if rows is None or replica is None or not any(rows):
            found.append(capacity)
            continue
        gains = _gains(replica, query, rows)
        cells = tuple(
            tuple(_grown(cell, gain) for cell, gain in zip(row, line, strict=True))
            for row, line in zip(capacity.cells, gains.tolist(), strict=True)
        )
        found.append(replace(capacity, cells=cells))
    return found


def _grown(cell: CapacityCell, gain: float) -> CapacityCell:
    if gain <= 1.0 or cell.origin is None:
        return cell
    return replace(cell.scaled(gain), origin=weakest((cell.origin, Origin.CALIBRATED)))


def _gains(
    replica: ReplicaModel, query: CapacityQuery, rows: Sequence[float]
) -> NDArray[np.float64]:
    """Return by how much the rate of each bucket grows, shape (I × O), 1 where nothing is known."""
    inputs = np.maximum(np.round(np.array(query.input_sizes, dtype=np.float64)), 1.0)
    outputs = np.maximum(np.round(np.array(query.output_sizes, dtype=np.float64)), 1.0)
    share = np.minimum(np.array(rows, dtype=np.float64), MOST_FOUND)[:, None]
    found = np.floor(inputs * share)
    cold = RequestSizes(input_tokens=inputs.ravel(), output_tokens=outputs.ravel())
    warm = replace(cold, found_tokens=found.ravel())
    before = capacity_estimate(replica, cold, query.slo).rate_rps
    after = capacity_estimate(replica, warm, query.slo).rate_rps
    gains = np.where(before > 0, after / np.maximum(before, 1e-300), 1.0)
    grown: NDArray[np.float64] = np.maximum(gains, 1.0).reshape(inputs.shape)
    return grown
