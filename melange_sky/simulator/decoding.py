"""How a sequence decodes: from its prompt's end, past its windows, to its last token. Plain functions for
`compiled`.
"""

from __future__ import annotations

import math

from melange_sky.simulator import state as c
from melange_sky.simulator.event_heap import next_event, pop, push
from melange_sky.simulator.kv_parts import (
    admission_parts,
    last_block_tokens,
    parts_held,
    window_parts,
)
from melange_sky.simulator.prefix_cache import ENDED, give_back
from melange_sky.simulator.state import FleetState
from melange_sky.simulator.step_seconds import windows_growth_s, windows_s


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
        holds = last_block_tokens(s, r, at)
        if holds > context:
            bend = min(bend, holds)
    return bend


def _count(s: FleetState, r: int, context: int, sign: int) -> None:
    """Count what a decoding sequence of so many tokens reads and takes, in (1) or out (−1)."""
    read_s = (context + 1) * s.real[r, c.PER_KV_TOKEN]
    growth_s = s.real[r, c.PER_KV_TOKEN]
    parts = s.whole[r, c.GROWN_PARTS]
    if s.whole[r, c.WINDOWS] > 0:
        read_s += windows_s(s, r, context + 1)
        growth_s += windows_growth_s(s, r, context + 1)
        parts += window_parts(s, r, context)
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
    push(s, r, event, request)


def _context(s: FleetState, r: int, request: int) -> int:
    """Tokens of a decoding sequence in the cache."""
    decoded = s.whole[r, c.STEP] - s.request[request, c.START_STEP]
    return s.request[request, c.START_CONTEXT] + decoded


def leave_decode(s: FleetState, r: int, request: int) -> int:
    """Take a request out of the decoding counts and return its context."""
    context = _context(s, r, request)
    s.whole[r, c.CONTEXT] -= context
    s.whole[r, c.DECODING] -= 1
    _count(s, r, context, -1)
    if s.whole[r, c.DECODING] == 0:  # nothing is left of what rounding left
        s.real[r, c.READ], s.real[r, c.GROWTH] = 0.0, 0.0
    return context


def unlink_running(s: FleetState, r: int, request: int) -> None:
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


def end_request(s: FleetState, r: int, request: int, blocks: int) -> None:
    """Finish a request now and give its blocks back."""
    if s.caches[r, c.CACHING] == 1:
        give_back(s, r, request, blocks, ENDED)
    else:
        s.whole[r, c.FREE] += blocks
    unlink_running(s, r, request)
    s.request[request, c.STATE], s.request[request, c.GENERATED] = (
        c.DONE,
        s.request[request, c.OUTPUT],
    )
    s.times[request, c.LAST] = s.real[r, c.CLOCK]
    s.whole[r, c.OUTSTANDING] -= s.request[request, c.INPUT] + s.request[request, c.OUTPUT]
    s.whole[r, c.SERVED] += 1
    s.finished[s.ended[0]] = request
    s.ended[0] += 1


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
        if s.whole[r, c.RESERVE] == 0 and context == last_block_tokens(s, r, at):
            parts = s.whole[r, at + c.PARTS]
            s.whole[r, c.GROWING] -= parts
            s.residues[r, (context - s.whole[r, c.STEP]) % s.whole[r, c.BLOCK]] -= parts


def meet_events(s: FleetState, r: int) -> None:
    """Finish all decoding sequences whose last step has run; let others pass their windows' ends."""
    while True:
        key = next_event(s, r)
        if key == c.NONE or key > s.whole[r, c.STEP]:
            return
        request = s.heap_request[r, 0]
        pop(s, r)
        if s.whole[r, c.WINDOWS] > 0:
            _bend(s, r, _context(s, r, request))
        if key < s.request[request, c.FINISH]:
            _schedule(s, r, request, _context(s, r, request))
            continue
        context = leave_decode(s, r, request)
        if s.whole[r, c.RESERVE] > 0:
            end_request(s, r, request, admission_parts(s, r, request))
        else:
            end_request(s, r, request, parts_held(s, r, context, 0))


def begin_decoding(s: FleetState, r: int, request: int) -> None:
    """A prompt is complete: its token comes out, and it decodes from the next step on."""
    context = s.request[request, c.INPUT] + s.request[request, c.GENERATED]
    s.request[request, c.GENERATED] += 1
    if math.isnan(s.times[request, c.FIRST]):
        s.times[request, c.FIRST] = s.real[r, c.CLOCK]
    if s.request[request, c.GENERATED] >= s.request[request, c.OUTPUT]:
        s.request[request, c.GENERATED] = s.request[request, c.OUTPUT] - 1
        end_request(s, r, request, admission_parts(s, r, request))
        return
    if s.whole[r, c.RESERVE] == 0 and s.whole[r, c.PREFILL_PARTS] + s.whole[r, c.WINDOWS] > 0:
        # what was in flight lies behind the windows now
        s.whole[r, c.FREE] += parts_held(s, r, context, 1) - parts_held(s, r, context, 0)
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
