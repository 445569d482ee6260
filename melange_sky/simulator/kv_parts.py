"""The parts of the KV cache that sequences hold and take. Plain functions for `compiled`."""

from __future__ import annotations

from melange_sky.simulator import state as c
from melange_sky.simulator.state import FleetState


def blocks_of(s: FleetState, r: int, tokens: int) -> int:
    block = s.whole[r, c.BLOCK]
    return (tokens + block - 1) // block


def parts_held(s: FleetState, r: int, tokens: int, prefill: int) -> int:
    """Parts that a sequence of so many tokens holds; `prefill` 1 while its prompt is computed."""
    blocks = blocks_of(s, r, tokens)
    held = s.whole[r, c.FIXED_PARTS] + blocks * s.whole[r, c.GROWN_PARTS]
    held += prefill * s.whole[r, c.PREFILL_PARTS]
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        cap = s.whole[r, at + c.CAP + prefill]
        held += min(blocks, cap) * s.whole[r, at + c.PARTS]
    return held


def admission_parts(s: FleetState, r: int, request: int) -> int:
    """Parts taken on admission: the prompt, or with a reservation everything up to the last token."""
    prompt = s.request[request, c.INPUT] + s.request[request, c.GENERATED]
    if s.whole[r, c.RESERVE] > 0:
        whole = s.request[request, c.INPUT] + s.request[request, c.OUTPUT]
        return parts_held(s, r, max(whole, s.whole[r, c.RESERVE]), 1)
    return parts_held(s, r, prompt, 1)


def largest_parts(s: FleetState, r: int, request: int) -> int:
    """The most that a request ever holds: at its end, or where it is computed anew near its end."""
    whole = s.request[request, c.INPUT] + s.request[request, c.OUTPUT]
    return parts_held(s, r, max(whole, s.whole[r, c.RESERVE]), 1)


def window_parts(s: FleetState, r: int, context: int) -> int:
    """Parts that a sequence of so many tokens takes for its windows with its next block."""
    parts = 0
    blocks = blocks_of(s, r, context)
    for number in range(s.whole[r, c.WINDOWS]):
        at = c.WINDOW_WHOLE + number * c.WINDOW_COLUMNS
        if blocks < s.whole[r, at + c.CAP]:
            parts += s.whole[r, at + c.PARTS]
    return parts


def last_block_tokens(s: FleetState, r: int, at: int) -> int:
    """Tokens of a sequence that has taken the last block that a window's layers ever hold."""
    return (s.whole[r, at + c.CAP] - 1) * s.whole[r, c.BLOCK] + 1


def parts_for_steps(s: FleetState, r: int, steps: int) -> int:
    """New parts that the decoding sequences need over the next `steps` steps, no window outgrown."""
    if s.whole[r, c.RESERVE] > 0:
        return 0
    block = s.whole[r, c.BLOCK]
    needed = steps // block * s.whole[r, c.GROWING]
    for ahead in range(steps % block):
        needed += s.residues[r, (-(s.whole[r, c.STEP] + ahead)) % block]
    return needed


def steps_that_fit(s: FleetState, r: int, wanted: int) -> int:
    """Return how many of the `wanted` decode steps the free blocks allow."""
    if parts_for_steps(s, r, wanted) <= s.whole[r, c.FREE]:
        return wanted
    block = s.whole[r, c.BLOCK]
    steps = s.whole[r, c.FREE] // s.whole[r, c.GROWING] * block
    left = s.whole[r, c.FREE] - steps // block * s.whole[r, c.GROWING]
    while True:
        left -= s.residues[r, (-(s.whole[r, c.STEP] + steps)) % block]
        if left < 0:
            return min(steps, wanted)
        steps += 1
