"""A simulated replica as a target of the capacity search that also probes real endpoints."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.simulator import state as columns
from melange_sky.simulator.state import fleet_state
from melange_sky.slo import RequestLog

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.simulator.state import FleetState
    from melange_sky.steps import ReplicaModel

    Floats = NDArray[np.float64]

ROOM = 1536
"""Requests for which there is room at first: as many as the longest probes of estimates have."""

LONGEST_KEPT = 8192


class SimulatedTarget:
    """One engine under requests of one size. Each probe begins with an idle engine; not for several threads."""

    def __init__(
        self, *, replica: ReplicaModel, input_tokens: int, output_tokens: int, room: int = ROOM
    ) -> None:
        """Stand for a replica that gets requests of so many tokens, mostly up to `room` of them."""
        self._replica = replica
        self._size = input_tokens, output_tokens
        self._least_room, self._room = room, 0
        self._state: FleetState
        self._idle: FleetState
        self._packed: Any = None

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        """Send `requests` requests as an open-loop Poisson stream."""
        from melange_sky.simulator import compiled

        self._make_idle(requests)
        arrival_s = np.cumsum(unit_gaps(seed, requests) * (1.0 / rate_rps))
        compiled.run_alike(self._packed, arrival_s, *self._size)
        return self._log(arrival_s)

    def _make_idle(self, requests: int) -> None:
        """Bring the state to what `fleet_state` returns, as far as an engine without a prefix cache reads it."""
        if requests > self._room:
            from melange_sky.simulator.native import Packed

            self._room = max(self._least_room, requests)
            self._state = fleet_state([self._replica], self._room, self._size[0])
            self._packed = Packed(self._state)
            self._idle = self._state._replace(
                **{name: getattr(self._state, name).copy() for name in _MOVING}
            )
            return
        for name in _MOVING:
            getattr(self._state, name)[...] = getattr(self._idle, name)

    def _log(self, arrival_s: Floats) -> RequestLog:
        count, outside_s = len(arrival_s), self._replica.request_s
        inputs, outputs = self._size
        times, request = self._state.times[:count], self._state.request[:count]
        return RequestLog(
            arrival_s=arrival_s,
            input_tokens=np.full(count, inputs),
            output_tokens=np.full(count, outputs),
            first_token_s=times[:, columns.FIRST] + outside_s,
            last_token_s=times[:, columns.LAST] + outside_s,
            ok=request[:, columns.STATE] == columns.DONE,
            option=np.full(count, -1),
        )


_MOVING = ("real", "whole", "residues", "ended", "due", "now")
"""What of a state moves, but for the requests, which `run_alike` writes anew, and heap and list of the ended, of
which only the first entries count."""


def unit_gaps(seed: int, count: int) -> Floats:
    """Return the first gaps between arrivals of a Poisson stream of rate 1; never written to."""
    if count > LONGEST_KEPT:
        return np.random.default_rng(seed).standard_exponential(count)
    return _kept_gaps(seed)[:count]


@lru_cache(maxsize=64)
def _kept_gaps(seed: int) -> Floats:
    gaps = np.random.default_rng(seed).standard_exponential(LONGEST_KEPT)
    gaps.flags.writeable = False
    return gaps
