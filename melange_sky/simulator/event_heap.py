"""A replica's decoding sequences by the step of their next event. Plain functions for `compiled`."""

from __future__ import annotations

from melange_sky.simulator import state as c
from melange_sky.simulator.state import FleetState


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


def pop(s: FleetState, r: int) -> None:
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


def _compact(s: FleetState, r: int) -> None:
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


def push(s: FleetState, r: int, key: int, request: int) -> None:
    if s.whole[r, c.HEAP] == len(s.heap_key[r]):
        _compact(s, r)
    _sift_in(s, r, key, request)


def next_event(s: FleetState, r: int) -> int:
    """Return the step at which the next decoding sequence ends or outgrows a window, −1 for none."""
    while s.whole[r, c.HEAP] > 0:
        key = s.heap_key[r, 0]
        if not _is_stale(s, key, s.heap_request[r, 0]):
            return key
        pop(s, r)
    return c.NONE
