"""The prefix cache of a replica: what ended requests leave in its KV cache, and what prompts find there. Plain
functions for `compiled`.

As the default engine keeps it: blocks that no running request uses stay where they are until their room is
needed; then those go first that were used longest ago, of one request the deepest. Blocks that running
requests share are held once and never go. Blocks stand in segments here (`reuse.PrefixPaths`), each of which a
request uses as a whole, so that a segment loses its blocks from its end on and one entry stands for all of them.

FREE counts all blocks that no running request uses, CACHED those of them that still hold something. A
prompt finds what is computed, block by block from its beginning; of a segment that another request is
computing right now it finds nothing before that is done, and computes it for itself.
"""

from __future__ import annotations

from melange_sky.simulator import state as c
from melange_sky.simulator.state import FleetState

SPREAD = 40503
UNFINISHED, COMPUTED, ENDED = range(3)
"""How a request leaves: while its prompt is computed, while it decodes, or at its end."""


def _find(s: FleetState, r: int, segment: int) -> int:
    slot = s.buckets[(segment + r * SPREAD) & (len(s.buckets) - 1)]
    while slot != c.NONE:
        if s.slots[slot, c.SEGMENT] == segment and s.slots[slot, c.ENGINE] == r:
            return slot
        slot = s.slots[slot, c.BESIDE]
    return c.NONE


def _new_slot(s: FleetState, r: int, segment: int, held: int) -> int:
    """Return a slot for so many blocks, NONE where there is no room for one; segment NONE is never found."""
    slot = s.spare[0]
    if slot == c.NONE:
        return c.NONE
    s.spare[0] = s.slots[slot, c.BESIDE]
    s.slots[slot, c.ENGINE], s.slots[slot, c.SEGMENT], s.slots[slot, c.HELD] = r, segment, held
    s.slots[slot, c.USERS], s.slots[slot, c.OWNER] = 0, c.NONE
    if segment != c.NONE:
        place = (segment + r * SPREAD) & (len(s.buckets) - 1)
        s.slots[slot, c.BESIDE] = s.buckets[place]
        s.buckets[place] = slot
    return slot


def _drop_slot(s: FleetState, slot: int) -> None:
    segment, r = s.slots[slot, c.SEGMENT], s.slots[slot, c.ENGINE]
    if segment != c.NONE:
        place = (segment + r * SPREAD) & (len(s.buckets) - 1)
        if s.buckets[place] == slot:
            s.buckets[place] = s.slots[slot, c.BESIDE]
        else:
            before = s.buckets[place]
            while s.slots[before, c.BESIDE] != slot:
                before = s.slots[before, c.BESIDE]
            s.slots[before, c.BESIDE] = s.slots[slot, c.BESIDE]
    s.slots[slot, c.BESIDE] = s.spare[0]
    s.spare[0] = slot


def _put_by(s: FleetState, r: int, slot: int) -> None:
    """Nothing uses it any more: it is the last to go."""
    newest = s.caches[r, c.NEWEST]
    s.slots[slot, c.OLDER], s.slots[slot, c.NEWER] = newest, c.NONE
    if newest == c.NONE:
        s.caches[r, c.OLDEST] = slot
    else:
        s.slots[newest, c.NEWER] = slot
    s.caches[r, c.NEWEST] = slot
    s.caches[r, c.CACHED] += s.slots[slot, c.HELD]


def _take_up(s: FleetState, r: int, slot: int) -> None:
    """It is used again, or goes."""
    older, newer = s.slots[slot, c.OLDER], s.slots[slot, c.NEWER]
    if older == c.NONE:
        s.caches[r, c.OLDEST] = newer
    else:
        s.slots[older, c.NEWER] = newer
    if newer == c.NONE:
        s.caches[r, c.NEWEST] = older
    else:
        s.slots[newer, c.OLDER] = older
    s.caches[r, c.CACHED] -= s.slots[slot, c.HELD]


def trim(s: FleetState, r: int) -> None:
    """Give up what was used longest ago until all that is cached fits into the free blocks."""
    while s.caches[r, c.CACHED] > s.whole[r, c.FREE]:
        excess = s.caches[r, c.CACHED] - s.whole[r, c.FREE]
        slot = s.caches[r, c.OLDEST]
        if s.slots[slot, c.HELD] > excess:
            s.slots[slot, c.HELD] -= excess
            s.caches[r, c.CACHED] -= excess
            return
        _take_up(s, r, slot)
        _drop_slot(s, slot)


def _is_computed(s: FleetState, r: int, slot: int) -> bool:
    owner = s.slots[slot, c.OWNER]
    if owner == c.NONE or s.request[owner, c.STATE] != c.IN_PREFILL:
        return True
    end = s.segments[s.slots[slot, c.SEGMENT], c.END]
    return s.request[owner, c.PREFILLED] >= end * s.whole[r, c.BLOCK]


def _match(s: FleetState, r: int, request: int) -> tuple[int, int, int]:
    """Return what a prompt finds: (segments, blocks, those of the blocks that running requests use)."""
    entries, blocks, in_use = 0, 0, 0
    first = s.path_first[request]
    for at in range(first, first + s.path_prompt[request]):
        segment = s.path_segment[at]
        slot = _find(s, r, segment)
        if slot == c.NONE or not _is_computed(s, r, slot):
            break
        held = s.slots[slot, c.HELD]
        entries += 1
        blocks += held
        if s.slots[slot, c.USERS] > 0:
            in_use += held
        if held < s.segments[segment, c.BLOCKS]:
            break
    return entries, blocks, in_use


def blocks_in_use(s: FleetState, r: int, request: int) -> int:
    """Return the blocks that a prompt would share with running requests: admitting it does not take them."""
    return _match(s, r, request)[2]


def take_prefix(s: FleetState, r: int, request: int, parts: int) -> int:
    """Give a prompt its `parts`, what it finds of them among them; return the tokens that it finds.

    The last token is always computed: its result is the first that comes out.
    """
    entries, blocks, in_use = _match(s, r, request)
    prompt = s.request[request, c.INPUT] + s.request[request, c.GENERATED]
    found = min(blocks, (prompt - 1) // s.whole[r, c.BLOCK]) * s.whole[r, c.BLOCK]
    s.whole[r, c.FREE] -= parts - in_use
    first = s.path_first[request]
    count, shared = 0, 0
    for at in range(first, first + s.path_prompt[request]):
        segment = s.path_segment[at]
        whole = s.segments[segment, c.BLOCKS]
        slot = _find(s, r, segment)
        if count < entries:
            if s.slots[slot, c.USERS] == 0:
                _take_up(s, r, slot)
            if s.slots[slot, c.HELD] < whole:
                s.slots[slot, c.HELD], s.slots[slot, c.OWNER] = whole, request
        else:
            if slot != c.NONE:
                break  # another one is computing it, or its beginning is gone
            slot = _new_slot(s, r, segment, whole)
            if slot == c.NONE:
                break
            s.slots[slot, c.OWNER] = request
        s.slots[slot, c.USERS] += 1
        shared += whole
        count += 1
    s.uses[request, c.ENTRIES], s.uses[request, c.SHARED] = count, shared
    if s.uses[request, c.FOUND] == c.NONE:
        s.uses[request, c.FOUND] = found
    trim(s, r)
    return found


def give_back(s: FleetState, r: int, request: int, parts: int, how: int) -> None:
    """Take a request's `parts` from it; what is computed stays cached until its room is needed."""
    own = parts - s.uses[request, c.SHARED]
    s.whole[r, c.FREE] += own
    if how == ENDED:
        # The last token is never computed, and a block that is not full is never found: it goes at once.
        tokens = s.request[request, c.INPUT] + s.request[request, c.OUTPUT] - 1
        _leave_answer(s, r, request, own - parts + tokens // s.whole[r, c.BLOCK])
    elif how == COMPUTED:
        _leave(s, r, c.NONE, own)
    first = s.path_first[request]
    for back in range(s.uses[request, c.ENTRIES]):
        segment = s.path_segment[first + s.uses[request, c.ENTRIES] - 1 - back]
        slot = _find(s, r, segment)
        s.slots[slot, c.USERS] -= 1
        if s.slots[slot, c.OWNER] == request:
            s.slots[slot, c.OWNER] = c.NONE
            if how == UNFINISHED:
                begin = s.segments[segment, c.END] - s.segments[segment, c.BLOCKS]
                computed = s.request[request, c.PREFILLED] // s.whole[r, c.BLOCK] - begin
                s.slots[slot, c.HELD] = max(0, min(computed, s.segments[segment, c.BLOCKS]))
        if s.slots[slot, c.USERS] == 0:
            s.whole[r, c.FREE] += s.segments[segment, c.BLOCKS]
            if s.slots[slot, c.HELD] > 0:
                _put_by(s, r, slot)
            else:
                _drop_slot(s, slot)
    s.uses[request, c.ENTRIES], s.uses[request, c.SHARED] = 0, 0


def _leave(s: FleetState, r: int, segment: int, blocks: int) -> None:
    """Leave blocks behind that belonged to one request alone."""
    if blocks > 0:
        slot = _new_slot(s, r, segment, blocks)
        if slot != c.NONE:
            _put_by(s, r, slot)


def _leave_answer(s: FleetState, r: int, request: int, own: int) -> None:
    """Leave behind an answer, and what nobody will ask for again, which goes first."""
    first = s.path_first[request] + s.path_prompt[request]
    count = 0
    for at in range(first, s.path_first[request + 1]):
        segment = s.path_segment[at]
        blocks = s.segments[segment, c.BLOCKS]
        if blocks > own or _find(s, r, segment) != c.NONE:
            break
        own -= blocks
        count += 1
    _leave(s, r, c.NONE, own)
    for back in range(count):
        segment = s.path_segment[first + count - 1 - back]
        _leave(s, r, segment, s.segments[segment, c.BLOCKS])


def forget(s: FleetState, r: int) -> None:
    """Empty the cache of a replica that failed."""
    request = s.whole[r, c.RUN_HEAD]
    while request != c.NONE:
        first = s.path_first[request]
        for at in range(first, first + s.uses[request, c.ENTRIES]):
            slot = _find(s, r, s.path_segment[at])
            if slot != c.NONE:
                _drop_slot(s, slot)
        s.uses[request, c.ENTRIES], s.uses[request, c.SHARED] = 0, 0
        request = s.request[request, c.NEXT]
    while s.caches[r, c.OLDEST] != c.NONE:
        slot = s.caches[r, c.OLDEST]
        _take_up(s, r, slot)
        _drop_slot(s, slot)
