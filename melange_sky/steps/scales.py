"""Correct a replica's constants by factors that probes of the real one told."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.steps.replica import ReplicaModel

_REQUEST_S = 1e-3
"""What `request` multiplies where a generation does not know the time that a request takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """By what a replica's constants are multiplied to agree with an endpoint.

    `host`: steps and sequences. `products`: reading and computing weights, and attention of prompts.
    `cache`: reading keys and values. `request`: what is spent on a request outside of steps. `computing`:
    computing alone, over `products`, where that is known apart from reading weights.
    """

    host: float = 1.0
    products: float = 1.0
    cache: float = 1.0
    request: float = 1.0
    computing: float = 1.0

    def applied(self, replica: ReplicaModel) -> ReplicaModel:
        """Return the replica with its constants multiplied."""
        costs, products, cache = replica.costs, self.products, self.cache
        computing = products * self.computing
        windows = tuple(
            w._replace(kv_token_s=w.kv_token_s * cache, pair_s=w.pair_s * computing)
            for w in costs.windows
        )
        scaled = costs._replace(
            fixed_s=costs.fixed_s * self.host,
            prompts_s=costs.prompts_s * self.host,
            sequence_s=costs.sequence_s * self.host,
            weights_s=costs.weights_s * products,
            experts_s=costs.experts_s * products,
            token_flops_s=costs.token_flops_s * computing,
            expert_token_s=costs.expert_token_s * computing,
            pair_s=costs.pair_s * computing,
            kv_token_s=costs.kv_token_s * cache,
            windows=windows,
        )
        request_s = (replica.request_s or _REQUEST_S) * self.request
        return dataclasses.replace(replica, costs=scaled, request_s=request_s)
