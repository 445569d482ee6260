"""A planned fleet under traffic: replicas of the engine model behind a routing policy."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.routing import QUEUE_LENGTH, QUEUE_WAIT_S, Homes
from melange_sky.routing.affinity import SESSION_BITS
from melange_sky.routing.minima import NEVER, width
from melange_sky.simulator import state as columns
from melange_sky.simulator.dispatch import (
    AFFINITY,
    DOWN,
    GATEWAY,
    POLICIES,
    SAMPLE,
    UP,
    Book,
    Routed,
    Rules,
)
from melange_sky.simulator.runs import RequestStream
from melange_sky.simulator.state import fleet_state
from melange_sky.slo import RequestLog

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.routing import RoutingState, RoutingTable
    from melange_sky.steps import ReplicaModel

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]


NOBODY_AT_HOME = Homes([0], [0], [0], [0.0], [0], [0], [0], [0], [0], [0.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOption:
    """So many like replicas: `engines_per_replica` engines each (data parallelism)."""

    name: str
    engine: ReplicaModel
    engines_per_replica: int
    replicas: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A replica is away from `start_s` to `end_s`: it fails, is interrupted, or still starts up."""

    replica: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRules:
    """How the fleet is driven: policy, gateway queue, outages and how often to sample its state."""

    policy: str = "gateway"
    queue_room: int = QUEUE_LENGTH
    queue_patience_s: float = QUEUE_WAIT_S
    outages: tuple[Outage, ...] = ()
    samples: int = 120


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FleetRun:
    """What happened. `log.option` indexes `log.options`; N requests, K options, S samples.

    `replica`, `reason` (N): where each request went (−1: nowhere) and why (`routing.policy.REASONS`).
    `busy_fraction` (K): time in steps ÷ time, over an option's engines, until the last arrival.
    Samples at `sample_s` (S): `waiting`, `running` and `kv_used` (S × K): requests queued and admitted
    per option, mean KV cache in use. `preemptions` (K). `found_tokens` (N): of each prompt, what its
    replica had in its prefix cache; None where nothing is shared.
    """

    log: RequestLog
    replica: Whole
    reason: Whole
    busy_fraction: Floats
    preemptions: Whole
    sample_s: Floats
    waiting: Floats
    running: Floats
    kv_used: Floats
    found_tokens: Whole | None = None


def simulate_planned_fleet(
    options: Sequence[FleetOption],
    table: RoutingTable,
    routing: RoutingState,
    stream: RequestStream,
    rules: FleetRules | None = None,
    homes: Homes | None = None,
) -> FleetRun:
    """Serve `stream` on the options' replicas, in the order in which `table` numbers them.

    With `homes` the gateway keeps together what `stream.prefixes` calls sessions. `routing`, the policy's
    state, and `homes` are not changed. Same arguments, same result, bit for bit.
    """
    from melange_sky.simulator import compiled

    rules = rules or FleetRules()
    engines = [o.engine for o in options for _ in range(o.replicas * o.engines_per_replica)]
    state = fleet_state(engines, len(stream), stream.longest_tokens, stream.prefixes)
    compiled.set_requests(state, stream.arrival_s, stream.input_tokens, stream.output_tokens)
    end_s = float(stream.arrival_s[-1]) if len(stream) else 0.0
    turns = [(o.start_s, o.replica, DOWN) for o in rules.outages]
    turns += [(o.end_s, o.replica, UP) for o in rules.outages]
    book = empty_book(options, len(stream), end_s, sorted(turns), rules)
    latest = end_s + rules.queue_patience_s + max((o.end_s for o in rules.outages), default=0.0)
    policy = POLICIES.index(rules.policy)
    if homes is not None and stream.prefixes is not None and policy == GATEWAY:
        policy, book = AFFINITY, book._replace(session=session_hashes(stream.prefixes.session))
    limits = Rules(policy, rules.queue_room, rules.queue_patience_s)
    known = Routed(arrays_of(table), arrays_of(routing), arrays_of(homes or NOBODY_AT_HOME))
    compiled.run(state, known, book, latest, limits)
    return result_of(options, state, book, stream)


def session_hashes(numbers: Whole) -> Whole:
    """Return numbers of sessions as hashes of them, evenly spread (Steele, Lea and Flood's SplitMix64)."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    hashes: Whole = np.maximum(x >> np.uint64(64 - SESSION_BITS), 1).astype(np.int64)
    return hashes


def arrays_of(values: Any) -> Any:
    """Return a named tuple with its lists as fresh arrays, which is what compiled code takes."""
    kinds = {int: np.int64, float: np.float64}
    return type(values)(
        *(
            np.array(v, dtype=kinds[type(v[0])] if len(v) else np.int64)
            if isinstance(v, list | array)
            else v
            for v in values
        )
    )


def empty_book(
    options: Sequence[FleetOption],
    requests: int,
    end_s: float,
    events: Sequence[tuple[float, int, int]],
    rules: FleetRules,
) -> Book:
    """Return a book before the first request; `events` are (time, replica, DOWN or UP or DRAIN) in order."""
    per_replica = [o.engines_per_replica for o in options for _ in range(o.replicas)]
    engines = sum(per_replica)
    samples = rules.samples if end_s > 0 else 0
    return Book(
        category=np.zeros(requests, dtype=np.int64),
        session=np.zeros(1, dtype=np.int64),
        need=np.zeros(requests),
        replica=np.full(requests, -1, dtype=np.int64),
        reason=np.full(requests, -1, dtype=np.int64),
        pending=np.full(2 * width(requests), NEVER),
        lost=np.zeros(max(requests, 1), dtype=np.int64),
        queue=np.zeros(max(requests, rules.queue_room, 1), dtype=np.int64),
        marks=np.zeros(8, dtype=np.int64),
        first_engine=np.concatenate([[0], np.cumsum(per_replica)]).astype(np.int64),
        weights=np.array([o.weight for o in options]),
        event_s=np.array([e[0] for e in events], dtype=np.float64),
        event_replica=np.array([e[1] for e in events], dtype=np.int64),
        event_up=np.array([e[2] for e in events], dtype=np.int64),
        sample_s=np.linspace(0.0, end_s, samples + 1, dtype=np.float64)[1:],
        waiting=np.zeros((samples, engines), dtype=np.int64),
        running=np.zeros((samples, engines), dtype=np.int64),
        used=np.zeros((samples, engines)),
    )


def result_of(
    options: Sequence[FleetOption], state: Any, book: Book, stream: RequestStream
) -> FleetRun:
    """Return what happened, once everything has been served."""
    option_of_replica = np.repeat(np.arange(len(options)), [o.replicas for o in options])
    per_engine = np.repeat(
        np.arange(len(options)), [o.replicas * o.engines_per_replica for o in options]
    )
    sent = book.replica >= 0
    option = np.where(sent, option_of_replica[np.maximum(book.replica, 0)], -1)
    outside_s = np.array([o.engine.request_s for o in options])[option]
    log = RequestLog(
        arrival_s=state.times[:, columns.ARRIVAL].copy(),
        input_tokens=stream.input_tokens,
        output_tokens=stream.output_tokens,
        first_token_s=state.times[:, columns.FIRST] + outside_s,
        last_token_s=state.times[:, columns.LAST] + outside_s,
        ok=state.request[:, columns.STATE] == columns.DONE,
        option=option.astype(np.int64),
        options=tuple(o.name for o in options),
    )
    taken = book.marks[SAMPLE]
    groups = [per_engine == k for k in range(len(options))]
    ended = float(np.nanmax(log.last_token_s)) if log.ok.any() else 0.0
    lasted = max(ended, float(stream.arrival_s[-1]) if len(stream) else 0.0)
    return FleetRun(
        log=log,
        replica=book.replica,
        reason=book.reason,
        busy_fraction=np.array(
            [state.real[g, columns.BUSY].mean() / lasted if lasted > 0 else 0.0 for g in groups]
        ),
        preemptions=np.array([state.whole[g, columns.PREEMPTED].sum() for g in groups]),
        sample_s=book.sample_s[:taken],
        waiting=_by_option(book.waiting[:taken], groups, np.sum),
        running=_by_option(book.running[:taken], groups, np.sum),
        kv_used=_by_option(book.used[:taken], groups, np.mean),
        found_tokens=None
        if stream.prefixes is None
        else np.maximum(state.uses[:, columns.FOUND], 0),
    )


def _by_option(samples: Any, groups: Sequence[Any], how: Any) -> Floats:
    found = [how(samples[:, g], axis=1) for g in groups]
    return np.stack(found, axis=1).astype(np.float64) if found else np.zeros((len(samples), 0))
