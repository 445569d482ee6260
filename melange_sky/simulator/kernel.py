"""Move replicas from event to event. Plain functions, which `compiled` makes machine code of.

Between events (an arrival, a prefill step, the end of a sequence, one that outgrows a window, a full KV
cache) a replica only decodes: its steps then form an arithmetic series in the context read, summed in
closed form. A sequence that starts to decode at step s with o tokens to go ends at step s + o, so a
heap of those numbers replaces per-step work on sequences.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from melange_sky.routing.minima import NEVER, first_at_most, put
from melange_sky.simulator import state as c
from melange_sky.simulator.decoding import begin_decoding, leave_decode, meet_events, unlink_running
from melange_sky.simulator.event_heap import next_event
from melange_sky.simulator.kv_parts import (
    admission_parts,
    largest_parts,
    parts_for_steps,
    parts_held,
    steps_that_fit,
)
from melange_sky.simulator.prefix_cache import (
    COMPUTED,
    UNFINISHED,
    blocks_in_use,
    give_back,
    take_prefix,
    trim,
)
from melange_sky.simulator.state import FleetState
from melange_sky.simulator.step_seconds import chunk_s, products, step_s, steps_until

if TYPE_CHECKING:
    from melange_sky.simulator.state import Floats, Whole

LATEST = 1e299
"""Later than any time that is simulated, and before `NEVER`."""


def submit(s: FleetState, r: int, request: int) -> None:
    """Queue a request whose arrival and sizes are set on replica `r`; refuse what can never fit."""
    (
        s.request[request, c.REPLICA],
        s.request[request, c.GENERATED],
        s.request[request, c.PREFILLED],
        s.request[request, c.FINISH],
    ) = r, 0, 0, c.NONE
    needed = largest_parts(s, r, request)
    if needed > s.whole[r, c.POOL] - s.whole[r, c.WATERMARK] or s.request[request, c.OUTPUT] < 1:
        s.request[request, c.STATE] = c.REFUSED
        s.finished[s.ended[0]] = request
        s.ended[0] += 1
        return
    s.request[request, c.STATE], s.request[request, c.NEXT], s.request[request, c.PREVIOUS] = (
        c.IN_QUEUE,
        c.NONE,
        c.NONE,
    )
    if s.whole[r, c.WAIT_TAIL] == c.NONE:
        s.whole[r, c.WAIT_HEAD] = request
    else:
        s.request[s.whole[r, c.WAIT_TAIL], c.NEXT] = request
    s.whole[r, c.WAIT_TAIL] = request
    s.whole[r, c.WAITING] += 1
    s.whole[r, c.OUTSTANDING] += s.request[request, c.INPUT] + s.request[request, c.OUTPUT]


def _admit(s: FleetState, r: int) -> int:
    """Move the head of the queue into the running list and return it."""
    request = s.whole[r, c.WAIT_HEAD]
    s.whole[r, c.WAIT_HEAD] = s.request[request, c.NEXT]
    if s.whole[r, c.WAIT_HEAD] == c.NONE:
        s.whole[r, c.WAIT_TAIL] = c.NONE
    s.whole[r, c.WAITING] -= 1
    s.request[request, c.STATE], s.request[request, c.PREFILLED] = c.IN_PREFILL, 0
    parts = admission_parts(s, r, request)
    if s.caches[r, c.CACHING] == 1:
        s.request[request, c.PREFILLED] = take_prefix(s, r, request, parts)
    else:
        s.whole[r, c.FREE] -= parts
    s.request[request, c.PREVIOUS], s.request[request, c.NEXT] = s.whole[r, c.RUN_TAIL], c.NONE
    if s.whole[r, c.RUN_TAIL] == c.NONE:
        s.whole[r, c.RUN_HEAD] = request
    else:
        s.request[s.whole[r, c.RUN_TAIL], c.NEXT] = request
    s.whole[r, c.RUN_TAIL] = request
    s.whole[r, c.RUNNING] += 1
    if s.whole[r, c.PREFILL] == c.NONE:
        s.whole[r, c.PREFILL] = request
    return request


def _can_admit(s: FleetState, r: int) -> bool:
    if s.whole[r, c.WAIT_HEAD] == c.NONE or s.whole[r, c.RUNNING] >= s.whole[r, c.MAX_SEQUENCES]:
        return False
    left = s.whole[r, c.FREE] - admission_parts(s, r, s.whole[r, c.WAIT_HEAD])
    if s.caches[r, c.CACHING] == 1 and left < s.whole[r, c.WATERMARK]:
        left += blocks_in_use(s, r, s.whole[r, c.WAIT_HEAD])
    return left >= s.whole[r, c.WATERMARK] or (left >= 0 and s.whole[r, c.RUNNING] == 0)


def _may_prefill(s: FleetState, r: int) -> bool:
    """Whether a step of prompts may run now: room for one, and the batcher's patience is over."""
    if not _can_admit(s, r):
        return False
    running = s.whole[r, c.RUNNING]
    if s.whole[r, c.WAIT_STEPS] == 0 or running == 0:
        return True
    waited = s.whole[r, c.STEP] - s.whole[r, c.LAST_PREFILL]
    return (
        waited >= s.whole[r, c.WAIT_STEPS] or s.whole[r, c.WAITING] >= s.real[r, c.RATIO] * running
    )


def _free(s: FleetState, r: int, request: int, parts: int, how: int) -> None:
    if s.caches[r, c.CACHING] == 1:
        give_back(s, r, request, parts, how)
    else:
        s.whole[r, c.FREE] += parts


def _preempt(s: FleetState, r: int) -> None:
    """Send the last admitted request back to the head of the queue, to be computed again."""
    request = s.whole[r, c.RUN_TAIL]
    if s.request[request, c.STATE] == c.IN_DECODE:
        _free(s, r, request, parts_held(s, r, leave_decode(s, r, request), 0), COMPUTED)
        s.request[request, c.GENERATED] = s.request[request, c.OUTPUT] - (
            s.request[request, c.FINISH] - s.whole[r, c.STEP]
        )
    else:
        _free(s, r, request, admission_parts(s, r, request), UNFINISHED)
        if s.whole[r, c.PREFILL] == request:
            s.whole[r, c.PREFILL] = c.NONE
    unlink_running(s, r, request)
    s.request[request, c.STATE], s.request[request, c.PREFILLED], s.request[request, c.FINISH] = (
        c.IN_QUEUE,
        0,
        c.NONE,
    )
    s.request[request, c.NEXT], s.request[request, c.PREVIOUS] = s.whole[r, c.WAIT_HEAD], c.NONE
    s.whole[r, c.WAIT_HEAD] = request
    if s.whole[r, c.WAIT_TAIL] == c.NONE:
        s.whole[r, c.WAIT_TAIL] = request
    s.whole[r, c.WAITING] += 1
    s.whole[r, c.PREEMPTED] += 1


def _pass(s: FleetState, r: int, seconds: float, steps: int) -> None:
    s.real[r, c.CLOCK] += seconds
    s.real[r, c.BUSY] += seconds
    s.whole[r, c.STEPS] += steps


def _decode(s: FleetState, r: int, until: float) -> None:
    """Decode until a sequence's event, the blocks run out, or a step would start at `until` or later."""
    # Room is made before the step runs; what was sent back is looked at again only after it.
    while parts_for_steps(s, r, 1) > s.whole[r, c.FREE]:
        _preempt(s, r)
    wanted = next_event(s, r) - s.whole[r, c.STEP]
    if s.whole[r, c.WAIT_STEPS] > 0:  # look at the queue again when its patience ends
        patience = s.whole[r, c.LAST_PREFILL] + s.whole[r, c.WAIT_STEPS] - s.whole[r, c.STEP]
        wanted = min(wanted, patience) if patience > 0 else wanted
    steps = steps_that_fit(s, r, wanted)
    sequences = s.whole[r, c.DECODING]
    first = step_s(s, r, sequences, sequences, 0.0)
    slope = s.real[r, c.GROWTH]
    left = until - s.real[r, c.CLOCK]
    if steps * first + slope * steps * (steps - 1) / 2.0 > left:
        steps = min(steps, steps_until(first, slope, left))
    seconds = steps * first + slope * steps * (steps - 1) / 2.0
    s.whole[r, c.FREE] -= parts_for_steps(s, r, steps)
    if s.caches[r, c.CACHING] == 1:
        trim(s, r)
    s.whole[r, c.STEP] += steps
    s.whole[r, c.CONTEXT] += sequences * steps
    s.real[r, c.READ] += slope * steps
    _pass(s, r, seconds, steps)
    meet_events(s, r)


def _chunked_step(s: FleetState, r: int) -> None:
    """One step that carries prefill chunks beside the decoding sequences (today's schedulers)."""
    preempted = False
    while parts_for_steps(s, r, 1) > s.whole[r, c.FREE]:
        _preempt(s, r)
        preempted = True
    needed = parts_for_steps(s, r, 1)
    s.whole[r, c.FREE] -= needed
    if s.caches[r, c.CACHING] == 1:
        trim(s, r)
    budget = s.whole[r, c.BUDGET] - s.whole[r, c.DECODING]
    tokens, prefilling, prefill_s = 0, 0, 0.0
    request = s.whole[r, c.PREFILL]
    while budget > 0:
        if request == c.NONE:
            if preempted or not _can_admit(s, r):
                break
            request = _admit(s, r)
        chunk = min(
            s.request[request, c.INPUT]
            + s.request[request, c.GENERATED]
            - s.request[request, c.PREFILLED],
            budget,
        )
        prefill_s += chunk_s(s, r, s.request[request, c.PREFILLED], chunk)
        s.request[request, c.PREFILLED] += chunk
        budget -= chunk
        tokens += chunk
        prefilling += 1
        request = s.request[request, c.NEXT]
    decoding = s.whole[r, c.DECODING]
    if prefilling > 0:
        prefill_s += s.real[r, c.PROMPTS]
    seconds = step_s(s, r, decoding + prefilling, decoding + tokens, prefill_s)
    _pass(s, r, seconds, 1)
    if decoding > 0:
        s.whole[r, c.STEP] += 1
        s.whole[r, c.CONTEXT] += decoding
        s.real[r, c.READ] += s.real[r, c.GROWTH]
        meet_events(s, r)
    _complete_prefills(s, r)


def _complete_prefills(s: FleetState, r: int) -> None:
    """Turn the prompts that are done into decoding sequences, in order."""
    request = s.whole[r, c.PREFILL]
    while request != c.NONE:
        if (
            s.request[request, c.PREFILLED]
            < s.request[request, c.INPUT] + s.request[request, c.GENERATED]
        ):
            break
        after = s.request[request, c.NEXT]
        begin_decoding(s, r, request)
        request = after
    s.whole[r, c.PREFILL] = request


def _prefill_step(s: FleetState, r: int) -> None:
    """One step of whole prompts only; decoding stands still (schedulers before chunked prefill)."""
    s.whole[r, c.LAST_PREFILL] = s.whole[r, c.STEP]
    tokens, prefilling, prefill_s = 0, 0, 0.0
    while _can_admit(s, r):
        head = s.request[s.whole[r, c.WAIT_HEAD]]
        prompt = head[c.INPUT] + head[c.GENERATED]
        if tokens > 0 and tokens + prompt > s.whole[r, c.BUDGET]:
            break
        request = _admit(s, r)
        prefill_s += chunk_s(s, r, 0, prompt)
        s.request[request, c.PREFILLED] = prompt
        tokens += prompt
        prefilling += 1
    seconds = (
        s.real[r, c.FIXED]
        + prefilling * s.real[r, c.PER_SEQUENCE]
        + products(s, r, tokens)
        + s.real[r, c.PROMPTS]
        + prefill_s
    )
    _pass(s, r, seconds, 1)
    _complete_prefills(s, r)


def advance(s: FleetState, r: int, until: float, stop_on_end: bool) -> None:
    """Run replica `r` until no step would start before `until`, or it idles, or (asked) one ends.

    An idle replica's clock moves to `until`.
    """
    ended = s.ended[0]
    while s.real[r, c.CLOCK] < until:
        if is_idle(s, r):
            if not math.isinf(until):
                s.real[r, c.CLOCK] = until
            return
        if s.whole[r, c.CHUNKED] == 1 and (s.whole[r, c.PREFILL] != c.NONE or _can_admit(s, r)):
            _chunked_step(s, r)
        elif s.whole[r, c.CHUNKED] == 0 and _may_prefill(s, r):
            _prefill_step(s, r)
        else:
            _decode(s, r, until)
        if stop_on_end and s.ended[0] > ended:
            return


def is_idle(s: FleetState, r: int) -> bool:
    """Whether a replica has neither queued nor admitted requests."""
    return s.whole[r, c.RUNNING] == 0 and s.whole[r, c.WAITING] == 0


def note_due(s: FleetState, r: int) -> None:
    """Note when a replica has to be looked at again: where it has run to, if it has work."""
    time = NEVER if is_idle(s, r) else s.real[r, c.CLOCK]
    put(s.due, (len(s.due) >> 1) + r, 1, time)


def advance_all(s: FleetState, until: float) -> None:
    """Run every replica until `until`, in order; those in a step that ends later are not looked at."""
    first = len(s.due) >> 1
    limit = min(until, LATEST)
    if until < LATEST:
        s.now[0] = until
    node = first_at_most(s.due, 1, 1, limit)
    while node >= 0:
        advance(s, node - first, until, False)
        note_due(s, node - first)
        node += 1
        if node == len(s.due):
            return
        node = first_at_most(s.due, node, 1, limit)


def enter(s: FleetState, r: int, request: int) -> None:
    """Queue a request on a replica of a fleet, now that all have come to where `advance_all` stopped."""
    if is_idle(s, r):
        s.real[r, c.CLOCK] = max(s.real[r, c.CLOCK], s.now[0])
    submit(s, r, request)
    note_due(s, r)


def run_open_loop(s: FleetState) -> None:
    """Serve all requests, already set with rising arrivals, on replica 0."""
    for request in range(len(s.request)):
        advance(s, 0, s.times[request, c.ARRIVAL], False)
        submit(s, 0, request)
    advance(s, 0, math.inf, False)


def run_alike(s: FleetState, arrival: Floats, inputs: int, outputs: int) -> None:
    """Serve requests of one size, with rising arrivals, on replica 0, which is idle at time 0."""
    for request in range(len(arrival)):
        for column in range(len(s.request[request])):
            s.request[request, column] = c.NONE
        s.request[request, c.INPUT], s.request[request, c.OUTPUT] = inputs, outputs
        s.times[request, c.ARRIVAL] = arrival[request]
        s.times[request, c.FIRST], s.times[request, c.LAST] = math.nan, math.nan
        advance(s, 0, arrival[request], False)
        submit(s, 0, request)
    advance(s, 0, math.inf, False)


def run_closed_loop(s: FleetState, users: int) -> None:
    """Keep `users` requests in flight on replica 0: the next one is sent when one ends."""
    sent, seen = 0, 0
    while sent < min(users, len(s.request)):
        s.times[sent, c.ARRIVAL] = s.real[0, c.CLOCK]
        submit(s, 0, sent)
        sent += 1
    while seen < s.ended[0] or s.whole[0, c.RUNNING] + s.whole[0, c.WAITING] > 0:
        if seen == s.ended[0]:
            advance(s, 0, math.inf, True)
        while seen < s.ended[0]:
            seen += 1
            if sent < len(s.request):
                s.times[sent, c.ARRIVAL] = s.real[0, c.CLOCK]
                submit(s, 0, sent)
                sent += 1


def set_requests(s: FleetState, arrival: Floats, inputs: Whole, outputs: Whole) -> None:
    """Write arrivals and sizes of all requests."""
    for request in range(len(s.request)):
        s.times[request, c.ARRIVAL] = arrival[request]
        s.request[request, c.INPUT] = inputs[request]
        s.request[request, c.OUTPUT] = outputs[request]
