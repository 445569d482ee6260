"""The least of many values, and where it stands, without looking at all of them.

A tree of minima lies flat in a sequence: node 1 is the top, the nodes below node n are 2n and 2n + 1, and
the second half of the sequence are the leaves, one for each value. Each node holds the least value of
its leaves. Part of the leaves, as wide as a power of two and placed at a multiple of that, have a node
as their own top. Changing a value, and finding the first leaf that is low enough, take as many looks as
the tree has levels, or twice that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.routing.vector import Vector

NEVER = 1e300
"""Value of a leaf that is not to be found."""


def put(tree: Vector[float], node: int, top: int, value: float) -> None:
    """Set the value of leaf `node`, and the minima above it up to `top`."""
    tree[node] = value
    while node > top:
        beside = tree[node ^ 1]
        if beside < value:  # noqa: PLR1730 - the gateway's hot path, where min() takes as long again
            value = beside
        node >>= 1
        if tree[node] == value:
            return
        tree[node] = value


def first_at_most(tree: Vector[float], node: int, top: int, limit: float) -> int:
    """Return the first leaf from `node` on, below `top`, whose value is at most `limit`; −1 for none.

    `node` is a leaf, or `top` itself for all leaves.
    """
    while tree[node] > limit:
        while node > top and node & 1:  # what lies below and left of here has been seen
            node >>= 1
        if node <= top:
            return -1
        node += 1
    leaves = len(tree) >> 1
    while node < leaves:
        node *= 2
        if tree[node] > limit:
            node += 1
    return node


def width(count: int) -> int:
    """Return how many leaves a tree of `count` values has: a power of two."""
    return 1 << max(count - 1, 0).bit_length()


def side_by_side(counts: Sequence[int]) -> tuple[list[int], list[int], int]:
    """Lay trees of so many values each out in one: (first leaf of each, its top, nodes in all).

    >>> side_by_side([1, 3])  # leaves 8 to 15: the first at 8, the others at 12, 13 and 14
    ([8, 12], [8, 3], 16)
    """
    starts, end = [], 0
    for wide in map(width, counts):
        starts.append(-(-end // wide) * wide)
        end = starts[-1] + wide
    leaves = width(end)
    first = [leaves + start for start in starts]
    tops = [leaf // width(count) for leaf, count in zip(first, counts, strict=True)]
    return first, tops, 2 * leaves
