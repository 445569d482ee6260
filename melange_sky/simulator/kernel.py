"""Move replicas from event to event. Everything here is compiled; import it only to simulate.

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
from melange_sky.simulator.state import FleetState

if TYPE_CHECKING:
    from melange_sky.simulator.state import Floats, Whole

LATEST = 1e299
"""Later than any time that is simulated, and before `NEVER`."""


def _blocks(s: FleetState, r: int, tokens: int) -> int:
    block = s.whole[r, c.BLOCK]
    return (tokens + block - 1) // block


def _held(s: FleetState, r: int, tokens: int, prefill: int) -> int:
    """Parts that a sequence of so many tokens holds; `prefill` 1 while its prompt is computed."""
    blocks = _blocks(s, r, tokens)
    held = s.whole[r, c.FIXED_PARTS] + blocks * s.whole[r, c.GROWN_PARTS]
    held += prefill * s.whole[r, c.PREFILL_PARTS]
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        cap = s.whole[r, at + c.CAP + prefill]
        held += min(blocks, cap) * s.whole[r, at + c.PARTS]
    return held


def _admission_parts(s: FleetState, r: int, request: int) -> int:
    """Parts taken on admission: the prompt, or with a reservation everything up to the last token."""
    prompt = s.request[request, c.INPUT] + s.request[request, c.GENERATED]
    if s.whole[r, c.RESERVE] > 0:
        whole = s.request[request, c.INPUT] + s.request[request, c.OUTPUT]
        return _held(s, r, max(whole, s.whole[r, c.RESERVE]), 1)
    return _held(s, r, prompt, 1)


def _largest_parts(s: FleetState, r: int, request: int) -> int:
    """The most that a request ever holds: at its end, or where it is computed anew near its end."""
    whole = s.request[request, c.INPUT] + s.request[request, c.OUTPUT]
    return _held(s, r, max(whole, s.whole[r, c.RESERVE]), 1)


def _sift_in(s: FleetState, r: int, key: int, request: int) -> None:
    keys, items = s.heap_key[r], s.heap_request[r]
    at = s.whole[r, c.HEAP]
    s.whole[r, c.HEAP] += 1
    while at > 0:
        up = (at - 1) >> 1
        if keys[up] <= key:
            break
        keys[at], items[at] = keys[up], items[up]
        at = up
    keys[at], items[at] = key, request


def _heap_pop(s: FleetState, r: int) -> None:
    keys, items = s.heap_key[r], s.heap_request[r]
    s.whole[r, c.HEAP] -= 1
    size = s.whole[r, c.HEAP]
    key, request = keys[size], items[size]
    at = 0
    while True:
        down = 2 * at + 1
        if down >= size:
            break
        if down + 1 < size and keys[down + 1] < keys[down]:
            down += 1
        if keys[down] >= key:
            break
        keys[at], items[at] = keys[down], items[down]
        at = down
    keys[at], items[at] = key, request


def _is_stale(s: FleetState, key: int, request: int) -> bool:
    """Whether a heap entry belongs to a decode that was preempted meanwhile."""
    return s.request[request, c.STATE] != c.IN_DECODE or s.request[request, c.EVENT] != key


def _heap_compact(s: FleetState, r: int) -> None:
    """Drop stale entries and rebuild. The heap has twice the room of the sequences that can run."""
    keys, items = s.heap_key[r], s.heap_request[r]
    old = s.whole[r, c.HEAP]
    kept = 0
    for at in range(old):
        if not _is_stale(s, keys[at], items[at]):
            keys[kept], items[kept] = keys[at], items[at]
            kept += 1
    s.whole[r, c.HEAP] = 0
    for at in range(kept):
        _sift_in(s, r, keys[at], items[at])


def _heap_push(s: FleetState, r: int, key: int, request: int) -> None:
    if s.whole[r, c.HEAP] == len(s.heap_key[r]):
        _heap_compact(s, r)
    _sift_in(s, r, key, request)


def _next_event(s: FleetState, r: int) -> int:
    """Return the step at which the next decoding sequence ends or outgrows a window, −1 for none."""
    while s.whole[r, c.HEAP] > 0:
        key = s.heap_key[r, 0]
        if not _is_stale(s, key, s.heap_request[r, 0]):
            return key
        _heap_pop(s, r)
    return c.NONE


def _unlink_running(s: FleetState, r: int, request: int) -> None:
    before, after = s.request[request, c.PREVIOUS], s.request[request, c.NEXT]
    if before == c.NONE:
        s.whole[r, c.RUN_HEAD] = after
    else:
        s.request[before, c.NEXT] = after
    if after == c.NONE:
        s.whole[r, c.RUN_TAIL] = before
    else:
        s.request[after, c.PREVIOUS] = before
    s.whole[r, c.RUNNING] -= 1


def submit(s: FleetState, r: int, request: int) -> None:
    """Queue a request whose arrival and sizes are set on replica `r`; refuse what can never fit."""
    (
        s.request[request, c.REPLICA],
        s.request[request, c.GENERATED],
        s.request[request, c.PREFILLED],
        s.request[request, c.FINISH],
    ) = r, 0, 0, c.NONE
    needed = _largest_parts(s, r, request)
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
    s.whole[r, c.FREE] -= _admission_parts(s, r, request)
    s.request[request, c.STATE], s.request[request, c.PREFILLED] = c.IN_PREFILL, 0
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
    left = s.whole[r, c.FREE] - _admission_parts(s, r, s.whole[r, c.WAIT_HEAD])
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


def _windows_s(s: FleetState, r: int, context: int) -> float:
    """Seconds that layers with a window read for a sequence that attends to so many tokens."""
    seconds = 0.0
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        window = s.whole[r, at + c.TOKENS]
        seen = min(context, window)
        if s.whole[r, at + c.IN_CHUNKS] == 1:
            seen = (context - 1) % window + 1
        seconds += seen * s.real[r, c.WINDOW_REAL + 2 * number + c.WINDOW_KV]
    return seconds


def _windows_growth_s(s: FleetState, r: int, context: int) -> float:
    """How much longer that takes with one token more, the end of a chunk apart."""
    seconds = 0.0
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        if context < s.whole[r, at + c.TOKENS] or s.whole[r, at + c.IN_CHUNKS] == 1:
            seconds += s.real[r, c.WINDOW_REAL + 2 * number + c.WINDOW_KV]
    return seconds


def _windows_parts(s: FleetState, r: int, context: int) -> int:
    """Parts that a sequence of so many tokens takes for its windows with its next block."""
    parts = 0
    blocks = _blocks(s, r, context)
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        if blocks < s.whole[r, at + c.CAP]:
            parts += s.whole[r, at + c.PARTS]
    return parts


def _last_block(s: FleetState, r: int, at: int) -> int:
    """Tokens of a sequence that has taken the last block that a window's layers ever hold."""
    return (s.whole[r, at + c.CAP] - 1) * s.whole[r, c.BLOCK] + 1


def _next_bend(s: FleetState, r: int, context: int) -> int:
    """Return the next context at which a sequence outgrows a window, in what it reads or holds."""
    bend = 1 << 60
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        window = s.whole[r, at + c.TOKENS]
        reads = window - 1  # the token of the step itself is read as well
        if s.whole[r, at + c.IN_CHUNKS] == 1:
            reads = (context // window + 1) * window
        if reads > context:
            bend = min(bend, reads)
        holds = _last_block(s, r, at)
        if holds > context:
            bend = min(bend, holds)
    return bend


def _count(s: FleetState, r: int, context: int, sign: int) -> None:
    """Count what a decoding sequence of so many tokens reads and takes, in (1) or out (−1)."""
    read_s = (context + 1) * s.real[r, c.PER_KV_TOKEN]
    growth_s = s.real[r, c.PER_KV_TOKEN]
    parts = s.whole[r, c.GROWN_PARTS]
    if s.whole[r, c.WINDOWS] > 0:
        read_s += _windows_s(s, r, context + 1)
        growth_s += _windows_growth_s(s, r, context + 1)
        parts += _windows_parts(s, r, context)
    s.real[r, c.READ] += sign * read_s
    s.real[r, c.GROWTH] += sign * growth_s
    if s.whole[r, c.RESERVE] == 0:
        s.whole[r, c.GROWING] += sign * parts
        s.residues[r, (context - s.whole[r, c.STEP]) % s.whole[r, c.BLOCK]] += sign * parts


def _schedule(s: FleetState, r: int, request: int, context: int) -> None:
    """Put a decoding sequence of so many tokens into the heap, at its end or its next bend."""
    event = s.request[request, c.FINISH]
    if s.whole[r, c.WINDOWS] > 0:
        event = min(event, s.whole[r, c.STEP] + _next_bend(s, r, context) - context)
    s.request[request, c.EVENT] = event
    _heap_push(s, r, event, request)


def _context(s: FleetState, r: int, request: int) -> int:
    """Tokens of a decoding sequence in the cache."""
    decoded = s.whole[r, c.STEP] - s.request[request, c.START_STEP]
    return s.request[request, c.START_CONTEXT] + decoded


def _leave_decode(s: FleetState, r: int, request: int) -> int:
    """Take a request out of the decoding counts and return its context."""
    context = _context(s, r, request)
    s.whole[r, c.CONTEXT] -= context
    s.whole[r, c.DECODING] -= 1
    _count(s, r, context, -1)
    if s.whole[r, c.DECODING] == 0:  # nothing is left of what rounding left
        s.real[r, c.READ], s.real[r, c.GROWTH] = 0.0, 0.0
    return context


def _preempt(s: FleetState, r: int) -> None:
    """Send the last admitted request back to the head of the queue, to be computed again."""
    request = s.whole[r, c.RUN_TAIL]
    if s.request[request, c.STATE] == c.IN_DECODE:
        s.whole[r, c.FREE] += _held(s, r, _leave_decode(s, r, request), 0)
        s.request[request, c.GENERATED] = s.request[request, c.OUTPUT] - (
            s.request[request, c.FINISH] - s.whole[r, c.STEP]
        )
    else:
        s.whole[r, c.FREE] += _admission_parts(s, r, request)
        if s.whole[r, c.PREFILL] == request:
            s.whole[r, c.PREFILL] = c.NONE
    _unlink_running(s, r, request)
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


def _end(s: FleetState, r: int, request: int, blocks: int) -> None:
    """Finish a request now and give its blocks back."""
    s.whole[r, c.FREE] += blocks
    _unlink_running(s, r, request)
    s.request[request, c.STATE], s.request[request, c.GENERATED] = (
        c.DONE,
        s.request[request, c.OUTPUT],
    )
    s.times[request, c.LAST] = s.real[r, c.CLOCK]
    s.whole[r, c.OUTSTANDING] -= s.request[request, c.INPUT] + s.request[request, c.OUTPUT]
    s.whole[r, c.SERVED] += 1
    s.finished[s.ended[0]] = request
    s.ended[0] += 1


def _meet_events(s: FleetState, r: int) -> None:
    """Finish all decoding sequences whose last step has run; let others pass their windows' ends."""
    while True:
        key = _next_event(s, r)
        if key == c.NONE or key > s.whole[r, c.STEP]:
            return
        request = s.heap_request[r, 0]
        _heap_pop(s, r)
        if s.whole[r, c.WINDOWS] > 0:
            _bend(s, r, _context(s, r, request))
        if key < s.request[request, c.FINISH]:
            _schedule(s, r, request, _context(s, r, request))
            continue
        context = _leave_decode(s, r, request)
        if s.whole[r, c.RESERVE] > 0:
            _end(s, r, request, _admission_parts(s, r, request))
        else:
            _end(s, r, request, _held(s, r, context, 0))


def _bend(s: FleetState, r: int, context: int) -> None:
    """A decoding sequence has come to so many tokens: count less for each window that it now outgrows."""
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        window, kv_s = (
            s.whole[r, at + c.TOKENS],
            s.real[r, c.WINDOW_REAL + 2 * number + c.WINDOW_KV],
        )
        if s.whole[r, at + c.IN_CHUNKS] == 1:
            if context % window == 0:  # the next token begins a chunk
                s.real[r, c.READ] -= window * kv_s
        elif context + 1 == window:
            s.real[r, c.GROWTH] -= kv_s
        if s.whole[r, c.RESERVE] == 0 and context == _last_block(s, r, at):
            parts = s.whole[r, at + c.PARTS]
            s.whole[r, c.GROWING] -= parts
            s.residues[r, (context - s.whole[r, c.STEP]) % s.whole[r, c.BLOCK]] -= parts


def _prefilled(s: FleetState, r: int, request: int) -> None:
    """A prompt is complete: its token comes out, and it decodes from the next step on."""
    context = s.request[request, c.INPUT] + s.request[request, c.GENERATED]
    s.request[request, c.GENERATED] += 1
    if math.isnan(s.times[request, c.FIRST]):
        s.times[request, c.FIRST] = s.real[r, c.CLOCK]
    if s.request[request, c.GENERATED] >= s.request[request, c.OUTPUT]:
        s.request[request, c.GENERATED] = s.request[request, c.OUTPUT] - 1
        _end(s, r, request, _admission_parts(s, r, request))
        return
    if s.whole[r, c.RESERVE] == 0 and s.whole[r, c.PREFILL_PARTS] + s.whole[r, c.WINDOWS] > 0:
        # what was in flight lies behind the windows now
        s.whole[r, c.FREE] += _held(s, r, context, 1) - _held(s, r, context, 0)
    (
        s.request[request, c.STATE],
        s.request[request, c.START_CONTEXT],
        s.request[request, c.START_STEP],
    ) = c.IN_DECODE, context, s.whole[r, c.STEP]
    s.request[request, c.FINISH] = (
        s.whole[r, c.STEP] + s.request[request, c.OUTPUT] - s.request[request, c.GENERATED]
    )
    s.whole[r, c.DECODING] += 1
    s.whole[r, c.CONTEXT] += context
    _count(s, r, context, 1)
    _schedule(s, r, request, context)


def _parts_for_steps(s: FleetState, r: int, steps: int) -> int:
    """New parts that the decoding sequences need over the next `steps` steps, no window outgrown."""
    if s.whole[r, c.RESERVE] > 0:
        return 0
    block = s.whole[r, c.BLOCK]
    needed = steps // block * s.whole[r, c.GROWING]
    for ahead in range(steps % block):
        needed += s.residues[r, (-(s.whole[r, c.STEP] + ahead)) % block]
    return needed


def _steps_that_fit(s: FleetState, r: int, wanted: int) -> int:
    """Return how many of the `wanted` decode steps the free blocks allow."""
    if _parts_for_steps(s, r, wanted) <= s.whole[r, c.FREE]:
        return wanted
    block = s.whole[r, c.BLOCK]
    steps = s.whole[r, c.FREE] // s.whole[r, c.GROWING] * block
    left = s.whole[r, c.FREE] - steps // block * s.whole[r, c.GROWING]
    while True:
        left -= s.residues[r, (-(s.whole[r, c.STEP] + steps)) % block]
        if left < 0:
            return min(steps, wanted)
        steps += 1


def _products(s: FleetState, r: int, tokens: int) -> float:
    """Matrix products of a step, extended along the table's last slope beyond its end."""
    table = s.tables[s.whole[r, c.TABLE]]
    last = len(table) - 1
    if tokens <= last:
        return table[tokens]
    return table[last] + (tokens - last) * (table[last] - table[last - 1])


def _pairs(tokens: int, window: int, chunked: int) -> float:
    """(query, key) pairs of a prompt of so many tokens within a window or chunks."""
    if chunked == 1:
        left = tokens % window
        return tokens // window * (window * (window + 1) / 2.0) + left * (left + 1) / 2.0
    inside = min(tokens, window)
    return inside * (inside + 1) / 2.0 + (tokens - inside) * float(window)


def _chunk_s(s: FleetState, r: int, done: int, chunk: int) -> float:
    """Attention of a prefill chunk after `done` tokens, and what waits for it, in seconds."""
    seconds = chunk * (done + (chunk + 1) / 2.0) * s.real[r, c.PER_PAIR]
    seconds += chunk * s.real[r, c.PER_PROMPT_TOKEN]
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        window, chunked = s.whole[r, at + c.TOKENS], s.whole[r, at + c.IN_CHUNKS]
        pairs = _pairs(done + chunk, window, chunked) - _pairs(done, window, chunked)
        seconds += pairs * s.real[r, c.WINDOW_REAL + 2 * number + c.WINDOW_PAIR]
    return seconds


def _step_s(s: FleetState, r: int, sequences: int, tokens: int, prefill_s: float) -> float:
    """One step: the decoding sequences and the prefill tokens beside them, if any."""
    return (
        s.real[r, c.FIXED]
        + sequences * s.real[r, c.PER_SEQUENCE]
        + _products(s, r, tokens)
        + s.real[r, c.READ]
        + prefill_s
    )


def _pass(s: FleetState, r: int, seconds: float, steps: int) -> None:
    s.real[r, c.CLOCK] += seconds
    s.real[r, c.BUSY] += seconds
    s.whole[r, c.STEPS] += steps


def _decode(s: FleetState, r: int, until: float) -> None:
    """Decode until a sequence's event, the blocks run out, or a step would start at `until` or later."""
    # Room is made before the step runs; what was sent back is looked at again only after it.
    while _parts_for_steps(s, r, 1) > s.whole[r, c.FREE]:
        _preempt(s, r)
    wanted = _next_event(s, r) - s.whole[r, c.STEP]
    if s.whole[r, c.WAIT_STEPS] > 0:  # look at the queue again when its patience ends
        patience = s.whole[r, c.LAST_PREFILL] + s.whole[r, c.WAIT_STEPS] - s.whole[r, c.STEP]
        wanted = min(wanted, patience) if patience > 0 else wanted
    steps = _steps_that_fit(s, r, wanted)
    sequences = s.whole[r, c.DECODING]
    first = _step_s(s, r, sequences, sequences, 0.0)
    slope = s.real[r, c.GROWTH]
    left = until - s.real[r, c.CLOCK]
    if steps * first + slope * steps * (steps - 1) / 2.0 > left:
        steps = min(steps, _steps_until(first, slope, left))
    seconds = steps * first + slope * steps * (steps - 1) / 2.0
    s.whole[r, c.FREE] -= _parts_for_steps(s, r, steps)
    s.whole[r, c.STEP] += steps
    s.whole[r, c.CONTEXT] += sequences * steps
    s.real[r, c.READ] += slope * steps
    _pass(s, r, seconds, steps)
    _meet_events(s, r)


def _steps_until(first: float, slope: float, seconds: float) -> int:
    """Smallest k ≥ 1 with k first + slope k (k − 1) / 2 ≥ seconds."""
    if slope * seconds < 1e-12 * first * first:
        steps = seconds / first
    else:
        half = first - slope / 2.0
        steps = (math.sqrt(half * half + 2.0 * slope * seconds) - half) / slope
    k = max(1, int(steps))
    while k * first + slope * k * (k - 1) / 2.0 < seconds:
        k += 1
    return k


def _chunked_step(s: FleetState, r: int) -> None:
    """One step that carries prefill chunks beside the decoding sequences (today's schedulers)."""
    preempted = False
    while _parts_for_steps(s, r, 1) > s.whole[r, c.FREE]:
        _preempt(s, r)
        preempted = True
    needed = _parts_for_steps(s, r, 1)
    s.whole[r, c.FREE] -= needed
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
        prefill_s += _chunk_s(s, r, s.request[request, c.PREFILLED], chunk)
        s.request[request, c.PREFILLED] += chunk
        budget -= chunk
        tokens += chunk
        prefilling += 1
        request = s.request[request, c.NEXT]
    decoding = s.whole[r, c.DECODING]
    if prefilling > 0:
        prefill_s += s.real[r, c.PROMPTS]
    seconds = _step_s(s, r, decoding + prefilling, decoding + tokens, prefill_s)
    _pass(s, r, seconds, 1)
    if decoding > 0:
        s.whole[r, c.STEP] += 1
        s.whole[r, c.CONTEXT] += decoding
        s.real[r, c.READ] += s.real[r, c.GROWTH]
        _meet_events(s, r)
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
        _prefilled(s, r, request)
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
        prefill_s += _chunk_s(s, r, 0, prompt)
        s.request[request, c.PREFILLED] = prompt
        tokens += prompt
        prefilling += 1
    seconds = (
        s.real[r, c.FIXED]
        + prefilling * s.real[r, c.PER_SEQUENCE]
        + _products(s, r, tokens)
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
