"""A simulated replica as a target of the capacity search that also probes real endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.simulator.runs import RequestStream, simulate_replica

if TYPE_CHECKING:
    from melange_sky.slo import RequestLog
    from melange_sky.steps import ReplicaModel


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTarget:
    """One engine under requests of one size."""

    replica: ReplicaModel
    input_tokens: int
    output_tokens: int

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        """Send `requests` requests as an open-loop Poisson stream."""
        gaps = np.random.default_rng(seed).exponential(1.0 / rate_rps, requests)
        stream = RequestStream.of(np.cumsum(gaps), self.input_tokens, self.output_tokens)
        return simulate_replica(self.replica, stream)
