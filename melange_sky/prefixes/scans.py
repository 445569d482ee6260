"""One pass over all requests each. Plain functions for `simulator.native`, which makes machine code of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from melange_sky.simulator.native import Program

if TYPE_CHECKING:
    from melange_sky.simulator.state import Whole

NONE = -1


class HashTree(NamedTuple):
    """Block ids of all requests one after the other, and the tree that they make.

    `first` (N + 1), `ids` and `node` (of each id its node, entries). Per node, with room for as many as
    there are ids: `parent`, `own` (its id), `after` (the next in its bucket). `bucket` has a power of two of
    places; `nodes` [0] is how many nodes there are.
    """

    first: Whole
    ids: Whole
    node: Whole
    parent: Whole
    own: Whole
    after: Whole
    bucket: Whole
    nodes: Whole


def grow_tree(t: HashTree) -> None:
    """Give every id its node: that of the same id after the same beginning, or a new one."""
    mask = len(t.bucket) - 1
    for request in range(len(t.first) - 1):
        parent = NONE
        for at in range(t.first[request], t.first[request + 1]):
            place = ((t.ids[at] & 0x3FFFFFFF) * 40503 + parent * 31) & mask
            node = t.bucket[place]
            while node != NONE:
                if t.own[node] == t.ids[at] and t.parent[node] == parent:
                    break
                node = t.after[node]
            if node == NONE:
                node = t.nodes[0]
                t.nodes[0] += 1
                t.parent[node], t.own[node] = parent, t.ids[at]
                t.after[node] = t.bucket[place]
                t.bucket[place] = node
            t.node[at] = node
            parent = node


class Uses(NamedTuple):
    """Paths as of `PrefixPaths`, and how often and when each segment is used.

    `alone` (N) are blocks of a request in no segment, `most` (N) the blocks of its prompt that a cache may
    answer. `tree` sums blocks by the time of their last use (Fenwick, from place 1 on), `place` (S) is a
    segment's time, 0 never. `above` (entries) becomes the blocks used more recently than the segment at its next
    use, NONE where there was none.
    """

    first: Whole
    prompt: Whole
    segment: Whole
    blocks: Whole
    alone: Whole
    tree: Whole
    place: Whole
    above: Whole


def _add(tree: Whole, place: int, blocks: int) -> None:
    while place < len(tree):
        tree[place] += blocks
        place += place & (-place)


def _up_to(tree: Whole, place: int) -> int:
    total = 0
    while place > 0:
        total += tree[place]
        place -= place & (-place)
    return total


def measure_distances(u: Uses) -> None:
    """Fill in `above`. All that a request used is used anew at its end, its answer first and the root last."""
    total, place = 0, 0
    for request in range(len(u.prompt)):
        first, last = u.first[request], u.first[request + 1]
        for at in range(first, first + u.prompt[request]):
            used = u.place[u.segment[at]]
            u.above[at] = NONE if used == 0 else total - _up_to(u.tree, used)
        place += 1
        if u.alone[request] > 0:
            _add(u.tree, place, u.alone[request])
            total += u.alone[request]
        for back in range(last - first):
            segment = u.segment[last - 1 - back]
            if u.place[segment] > 0:
                _add(u.tree, u.place[segment], -u.blocks[segment])
                total -= u.blocks[segment]
            place += 1
            u.place[segment] = place
            _add(u.tree, place, u.blocks[segment])
            total += u.blocks[segment]


_PROGRAM = Program(grow_tree, measure_distances)
grow_tree_fast, measure_distances_fast = _PROGRAM.entries()
