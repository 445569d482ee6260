"""Simulate one replica or many, and hand back the records that measurements end in too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.simulator import state as columns
from melange_sky.simulator.state import FleetState, fleet_state
from melange_sky.slo import RequestLog

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from melange_sky.reuse import PrefixPaths
    from melange_sky.steps import ReplicaModel

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestStream:
    """Requests to send: rising arrival times in seconds and sizes in tokens, each (requests,).

    `prefixes` is what their prompts share, None where that is nothing or not known.
    """

    arrival_s: Floats
    input_tokens: Whole
    output_tokens: Whole
    prefixes: PrefixPaths | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def longest_tokens(self) -> int:
        """Tokens of the longest prompt, 0 without requests."""
        return int(self.input_tokens.max(initial=0))

    def part(self, first: int, end: int) -> RequestStream:
        """Return the requests from `first` up to `end`, at the times that they have."""
        return RequestStream(
            arrival_s=self.arrival_s[first:end],
            input_tokens=self.input_tokens[first:end],
            output_tokens=self.output_tokens[first:end],
            prefixes=None if self.prefixes is None else self.prefixes.part(first, end),
        )

    @classmethod
    def of(
        cls,
        arrival_s: ArrayLike,
        input_tokens: ArrayLike,
        output_tokens: ArrayLike,
        prefixes: PrefixPaths | None = None,
    ) -> RequestStream:
        """Build a stream; scalars of tokens are repeated. Raises ValueError on falling arrivals."""
        arrivals = np.asarray(arrival_s, dtype=np.float64)
        if len(arrivals) and (np.diff(arrivals) < 0).any():
            raise ValueError("arrivals must rise")
        sizes = [
            np.broadcast_to(np.asarray(s, dtype=np.int64), arrivals.shape).copy()
            for s in (input_tokens, output_tokens)
        ]
        return cls(
            arrival_s=arrivals, input_tokens=sizes[0], output_tokens=sizes[1], prefixes=prefixes
        )


def simulate_replica(replica: ReplicaModel, stream: RequestStream) -> RequestLog:
    """Serve a stream on one engine."""
    from melange_sky.simulator import compiled
    from melange_sky.simulator.native import Packed

    state = fleet_state([replica], len(stream), stream.longest_tokens, stream.prefixes)
    packed: Any = Packed(state)
    compiled.set_requests(packed, stream.arrival_s, stream.input_tokens, stream.output_tokens)
    compiled.run_open_loop(packed)
    log = _log(state, stream.input_tokens, stream.output_tokens)
    return dataclasses.replace(
        log,
        first_token_s=log.first_token_s + replica.request_s,
        last_token_s=log.last_token_s + replica.request_s,
    )


def simulate_closed_loop(
    replica: ReplicaModel, users: int, input_tokens: Whole, output_tokens: Whole
) -> RequestLog:
    """Serve requests of the given sizes on one engine with `users` in flight at all times."""
    from melange_sky.simulator import compiled

    count = len(input_tokens)
    stream = RequestStream.of(np.zeros(count), input_tokens, output_tokens)
    state = fleet_state([replica], count, stream.longest_tokens)
    compiled.set_requests(state, stream.arrival_s, stream.input_tokens, stream.output_tokens)
    compiled.run_closed_loop(state, users)
    return _log(state, stream.input_tokens, stream.output_tokens)


class FleetSimulation:
    """Many engines that advance event by event while a router looks at them.

    Per request: `advance(arrival)`, look at the live counts, choose an engine, `submit`. At the end
    `finish`, then `log`. Times must not fall. The live views have shape (engines,) and change with
    the simulation.
    """

    def __init__(
        self, replicas: Sequence[ReplicaModel], requests: int, longest_tokens: int = 4096
    ) -> None:
        """Make idle engines at time 0 with room for `requests` requests in all."""
        from melange_sky.simulator import compiled
        from melange_sky.simulator.native import Packed

        self._code = compiled
        self._state = fleet_state(replicas, requests, longest_tokens)
        self._packed: Any = Packed(self._state)
        self._sent = 0

    def advance(self, until_s: float) -> None:
        """Run every engine until no step would start before `until_s`."""
        self._code.advance_all(self._packed, until_s)

    def submit(self, engine: int, arrival_s: float, input_tokens: int, output_tokens: int) -> int:
        """Queue a request on an engine and return its number (0, 1, … in order of submission)."""
        request = self._sent
        self._state.times[request, columns.ARRIVAL] = arrival_s
        self._state.request[request, columns.INPUT] = input_tokens
        self._state.request[request, columns.OUTPUT] = output_tokens
        self._code.enter(self._packed, engine, request)
        self._sent += 1
        return request

    def finish(self) -> None:
        """Serve everything that is still queued or running."""
        self.advance(float("inf"))

    @property
    def waiting(self) -> Whole:
        """Requests queued per engine."""
        return self._state.whole[:, columns.WAITING]

    @property
    def running(self) -> Whole:
        """Requests admitted per engine."""
        return self._state.whole[:, columns.RUNNING]

    @property
    def outstanding_tokens(self) -> Whole:
        """Input + output tokens of all requests that are queued or running, per engine."""
        return self._state.whole[:, columns.OUTSTANDING]

    @property
    def free_block_fraction(self) -> Floats:
        """Free part of the KV cache per engine."""
        free: Floats = self._state.whole[:, columns.FREE] / self._state.whole[:, columns.POOL]
        return free

    @property
    def busy_s(self) -> Floats:
        """Seconds that each engine spent in steps."""
        return self._state.real[:, columns.BUSY]

    @property
    def clock_s(self) -> Floats:
        """Time up to which each engine has run: the end of its step in progress."""
        clock, now = self._state.real[:, columns.CLOCK], self._state.now[0]
        idle = (self.running == 0) & (self.waiting == 0)
        return np.where(idle, np.maximum(clock, now), clock)

    @property
    def preemptions(self) -> Whole:
        """Preemptions per engine."""
        return self._state.whole[:, columns.PREEMPTED]

    @property
    def engine_of(self) -> Whole:
        """Engine of each submitted request, shape (submitted,)."""
        return self._state.request[: self._sent, columns.REPLICA]

    def log(self) -> RequestLog:
        """Return the records of all submitted requests, in order of submission."""
        sizes = self._state.request[: self._sent]
        return _log(self._state, sizes[:, columns.INPUT], sizes[:, columns.OUTPUT], self._sent)


Router = Callable[[int, FleetSimulation], int]
"""(request number in the stream, live fleet) → engine to send it to."""


def simulate_fleet(
    replicas: Sequence[ReplicaModel], stream: RequestStream, route: Router
) -> FleetSimulation:
    """Serve a stream on many engines, each arrival routed by `route` on what it sees then."""
    fleet = FleetSimulation(replicas, len(stream), stream.longest_tokens)
    rows = zip(
        stream.arrival_s.tolist(),
        stream.input_tokens.tolist(),
        stream.output_tokens.tolist(),
        strict=True,
    )
    for number, (arrival_s, input_tokens, output_tokens) in enumerate(rows):
        fleet.advance(arrival_s)
        fleet.submit(route(number, fleet), arrival_s, input_tokens, output_tokens)
    fleet.finish()
    return fleet


def _log(state: FleetState, inputs: Whole, outputs: Whole, count: int | None = None) -> RequestLog:
    rows = slice(0, count)
    return RequestLog(
        arrival_s=state.times[rows, columns.ARRIVAL].copy(),
        input_tokens=inputs.copy(),
        output_tokens=outputs.copy(),
        first_token_s=state.times[rows, columns.FIRST].copy(),
        last_token_s=state.times[rows, columns.LAST].copy(),
        ok=state.request[rows, columns.STATE] == columns.DONE,
        option=np.full(len(inputs), -1, dtype=np.int64),
    )
