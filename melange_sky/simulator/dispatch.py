"""A fleet behind the gateway's policy, request by request. Plain functions for `compiled`.

The policy is `melange_sky.routing.policy` itself, the very functions that the gateway runs. It sees what
a gateway sees: input tokens, what is in flight, and completions only once they have happened. Output
lengths are unknown to it until then.

A request that no replica can take waits in the gateway's queue, first come first served, and is
offered again when something ends; beyond the queue's length or patience it is refused. A replica
that fails loses its requests: those without a first token are sent elsewhere, the others fail.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from melange_sky.routing import affinity, policy, skyserve
from melange_sky.routing.homes import Homes
from melange_sky.routing.minima import NEVER, first_at_most, put
from melange_sky.routing.table import RoutingState, RoutingTable
from melange_sky.simulator import state as c
from melange_sky.simulator.kernel import advance_all, enter, is_idle, note_due
from melange_sky.simulator.prefix_cache import forget
from melange_sky.simulator.state import FleetState

if TYPE_CHECKING:
    from melange_sky.simulator.state import FloatRows, Floats, Whole, WholeRows

GATEWAY, ROUND_ROBIN, LEAST_LOAD, INSTANCE_AWARE, AFFINITY = range(5)
POLICIES = ("gateway", "round_robin", "least_load", "instance_aware_least_load")
"""Those that can be asked for; the gateway's own is AFFINITY where it keeps sessions together."""


class Routed(NamedTuple):
    """What the gateway knows: the plan, what has been seen, and where sessions are at home."""

    table: RoutingTable
    state: RoutingState
    homes: Homes


class Rules(NamedTuple):
    """Policy (index in `POLICIES`, or AFFINITY), room of the gateway's queue, and its patience in seconds."""

    policy: int
    room: int
    patience_s: float


# Columns of `Book.marks`.
ENDED_SEEN, QUEUE_HEAD, QUEUE_TAIL, EVENT, SAMPLE = range(5)
QUEUE_STEP_S = 0.01
DOWN, UP, DRAIN = 0, 1, 2
"""What happens to a replica: it fails, it serves from now on, or it ends what it has and gets nothing more."""


class Book(NamedTuple):
    """What the dispatcher notes. N requests, R replicas, E engines, V events, S samples.

    Per request: `category` (the policy's class), `session` (as `routing.affinity` takes it; one entry
    where no sessions are kept together), `need`, `replica`, `reason` (−1: never sent). `pending`
    holds when requests ended that the policy takes for running still, in the order of
    `FleetState.finished`, as `routing.minima`; `queue` and `lost` have room for request numbers.
    `first_engine` (R + 1): the engines of replica r are first_engine[r] … first_engine[r + 1] − 1.
    Events rise in time; `event_up` says what they are (UP, DOWN, DRAIN). `waiting`, `running`, `used`
    (S × E) hold the samples taken at `sample_s`: queued and admitted requests, KV cache in use.
    """

    category: Whole
    session: Whole
    need: Floats
    replica: Whole
    reason: Whole
    pending: Floats
    lost: Whole
    queue: Whole
    marks: Whole
    first_engine: Whole
    weights: Floats
    event_s: Floats
    event_replica: Whole
    event_up: Whole
    sample_s: Floats
    waiting: WholeRows
    running: WholeRows
    used: FloatRows


def _settle(s: FleetState, d: Routed, b: Book, now: float) -> None:
    """Tell the policy what has ended by now, in the order in which the engines ended it."""
    first = len(b.pending) >> 1
    while b.marks[ENDED_SEEN] < s.ended[0]:
        at = b.marks[ENDED_SEEN]
        request = s.finished[at]
        done = s.request[request, c.STATE] == c.DONE
        put(b.pending, first + at, 1, s.times[request, c.LAST] if done else 0.0)
        b.marks[ENDED_SEEN] += 1
    node = first_at_most(b.pending, 1, 1, now)
    while node >= 0:
        request = s.finished[node - first]
        put(b.pending, node, 1, NEVER)
        policy.finish(d.table, d.state, b.replica[request], b.need[request])
        if s.request[request, c.STATE] == c.DONE:
            policy.observe(d.table, d.state, b.category[request], s.request[request, c.OUTPUT])
        node += 1
        if node == len(b.pending):
            return
        node = first_at_most(b.pending, node, 1, now)


def _pick(s: FleetState, d: Routed, b: Book, request: int, kind: int) -> tuple[int, int]:
    """Return (replica, reason); −1 where none can take the request now."""
    if kind == ROUND_ROBIN:
        return skyserve.round_robin(d.table, d.state, b.weights), 0
    if kind == LEAST_LOAD:
        return skyserve.least_load(d.table, d.state, b.weights), 0
    if kind == INSTANCE_AWARE:
        return skyserve.instance_aware_least_load(d.table, d.state, b.weights), 0
    size = s.request[request, c.INPUT] + 1
    if kind == AFFINITY:
        asked = (b.category[request], size, b.session[request])
        replica, reason, _place = affinity.choose(d.table, d.state, d.homes, asked)
        return replica, reason
    replica, reason = policy.choose(d.table, d.state, b.category[request], size)
    return replica, reason


def _engine_of(s: FleetState, b: Book, replica: int) -> int:
    """Return the emptiest engine of a replica, a queued request weighing four running ones.

    That is the balance of today's servers between the engines of one data-parallel replica.
    """
    best, lowest = int(b.first_engine[replica]), 1 << 60
    for engine in range(b.first_engine[replica], b.first_engine[replica + 1]):
        score = 4 * s.whole[engine, c.WAITING] + s.whole[engine, c.RUNNING]
        if score < lowest:
            best, lowest = engine, score
    return best


def _send(s: FleetState, d: Routed, b: Book, request: int, kind: int) -> bool:
    """Route one request to an engine; False where none can take it now."""
    replica, reason = _pick(s, d, b, request, kind)
    b.reason[request] = reason
    if replica < 0:
        return False
    b.replica[request] = replica
    b.need[request] = policy.begin(d.table, d.state, b.category[request], replica)
    enter(s, _engine_of(s, b, replica), request)
    return True


def _drain(s: FleetState, d: Routed, b: Book, now: float, rules: Rules) -> None:
    """Send what waits in the gateway as far as it goes; give up on what waited too long."""
    patience = rules.patience_s
    while b.marks[QUEUE_HEAD] < b.marks[QUEUE_TAIL]:
        request = b.queue[b.marks[QUEUE_HEAD] % len(b.queue)]
        waited = now - s.times[request, c.ARRIVAL]
        if waited <= patience and not _send(s, d, b, request, rules.policy):
            return
        b.marks[QUEUE_HEAD] += 1


def _enqueue(b: Book, request: int, room: int) -> None:
    if b.marks[QUEUE_TAIL] - b.marks[QUEUE_HEAD] < room:
        b.queue[b.marks[QUEUE_TAIL] % len(b.queue)] = request
        b.marks[QUEUE_TAIL] += 1


def _held_by(s: FleetState, b: Book, engine: int) -> int:
    """Write the requests that an engine holds to `b.lost`, in order, and return how many."""
    count = 0
    for head in (c.RUN_HEAD, c.WAIT_HEAD):
        request = s.whole[engine, head]
        while request != c.NONE:
            at = count
            while at > 0 and b.lost[at - 1] > request:  # they are nearly in order
                b.lost[at] = b.lost[at - 1]
                at -= 1
            b.lost[at] = request
            count += 1
            request = s.request[request, c.NEXT]
    return count


def _lose(s: FleetState, d: Routed, b: Book, engine: int, room: int) -> None:
    """Empty an engine that failed: requests without a first token go back to the gateway."""
    for at in range(_held_by(s, b, engine)):
        request = b.lost[at]
        policy.finish(d.table, d.state, b.replica[request], b.need[request])
        if math.isnan(s.times[request, c.FIRST]):
            s.request[request, c.STATE] = c.NEW
            _enqueue(b, request, room)
        else:
            s.request[request, c.STATE] = c.REFUSED
    if s.caches[engine, c.CACHING] == 1:
        forget(s, engine)
    whole = s.whole[engine]
    whole[c.FREE] = whole[c.POOL]
    for column in (c.DECODING, c.HEAP, c.WAITING, c.RUNNING, c.CONTEXT, c.OUTSTANDING, c.GROWING):
        whole[column] = 0
    for column in (c.RUN_HEAD, c.RUN_TAIL, c.PREFILL, c.WAIT_HEAD, c.WAIT_TAIL):
        whole[column] = c.NONE
    s.real[engine, c.READ], s.real[engine, c.GROWTH] = 0.0, 0.0
    for residue in range(len(s.residues[engine])):
        s.residues[engine, residue] = 0
    note_due(s, engine)


def _event(s: FleetState, d: Routed, b: Book, room: int) -> None:
    """Apply the next failure or recovery. One that serves again has an empty prefix cache."""
    at = b.marks[EVENT]
    replica, what = b.event_replica[at], b.event_up[at]
    b.marks[EVENT] += 1
    policy.set_health(d.table, d.state, replica, 1 if what == UP else 0)
    for engine in range(b.first_engine[replica], b.first_engine[replica + 1]):
        if what == DOWN:
            _lose(s, d, b, engine, room)
        elif what == UP and s.caches[engine, c.CACHING] == 1 and is_idle(s, engine):
            forget(s, engine)


def _sample(s: FleetState, b: Book) -> None:
    at = b.marks[SAMPLE]
    for engine in range(len(s.real)):
        b.waiting[at, engine] = s.whole[engine, c.WAITING]
        b.running[at, engine] = s.whole[engine, c.RUNNING]
        pool = s.whole[engine, c.POOL]
        b.used[at, engine] = 1.0 - s.whole[engine, c.FREE] / pool
    b.marks[SAMPLE] += 1


def _next_stop(b: Book, until: float, now: float) -> float:
    """Return the next moment to look: an event, a sample, a retry of the queue, or `until`."""
    stop = until
    if b.marks[EVENT] < len(b.event_s):
        stop = min(stop, b.event_s[b.marks[EVENT]])
    if b.marks[SAMPLE] < len(b.sample_s):
        stop = min(stop, b.sample_s[b.marks[SAMPLE]])
    if b.marks[QUEUE_HEAD] < b.marks[QUEUE_TAIL]:
        stop = min(stop, now + QUEUE_STEP_S)
    return max(stop, now)


def _run_to(
    s: FleetState,
    d: Routed,
    b: Book,
    span: tuple[float, float],
    rules: Rules,
) -> None:
    """Bring everything from span[0] to span[1]; `rules` are policy, queue room and patience."""
    now, until = span
    room = rules.room
    while True:
        stop = _next_stop(b, until, now)
        advance_all(s, stop)
        _settle(s, d, b, stop)
        while b.marks[EVENT] < len(b.event_s) and b.event_s[b.marks[EVENT]] <= stop:
            _event(s, d, b, room)
        while b.marks[SAMPLE] < len(b.sample_s) and b.sample_s[b.marks[SAMPLE]] <= stop:
            _sample(s, b)
        _drain(s, d, b, stop, rules)
        now = stop
        if now >= until:
            return


def run_part(
    s: FleetState,
    d: Routed,
    b: Book,
    requests: tuple[int, int],
    span: tuple[float, float],
    rules: Rules,
) -> None:
    """Bring everything from span[0] to span[1], in which requests[0] up to requests[1] arrive."""
    now, until = span
    first, end = requests
    for request in range(first, end):
        arrival = s.times[request, c.ARRIVAL]
        _run_to(s, d, b, (now, arrival), rules)
        now = arrival
        b.category[request] = policy.class_of(d.table, s.request[request, c.INPUT], 0)
        queued = b.marks[QUEUE_HEAD] < b.marks[QUEUE_TAIL]
        if queued or not _send(s, d, b, request, rules.policy):
            _enqueue(b, request, rules.room)
    if until > now:
        _run_to(s, d, b, (now, until), rules)


def run(s: FleetState, d: Routed, b: Book, end_s: float, rules: Rules) -> None:
    """Serve all requests, set with rising arrivals, and see them through to the end."""
    now = 0.0
    if len(s.request) > 0:
        now = s.times[len(s.request) - 1, c.ARRIVAL]
        run_part(s, d, b, (0, len(s.request)), (0.0, now), rules)
    while now < end_s and (
        b.marks[EVENT] < len(b.event_s) or b.marks[QUEUE_HEAD] < b.marks[QUEUE_TAIL]
    ):
        after = min(now + 1.0, end_s)
        _run_to(s, d, b, (now, after), rules)
        now = after
    advance_all(s, math.inf)
