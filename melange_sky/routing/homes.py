"""Where sessions are at home: which option and which replica, from the plan and the replicas' names alone.

Several gateways that serve one plan with the same replicas agree without telling each other anything.

*Options.* A session is a fixed point of [0, SPAN); each class of requests divides that span among the
options by the plan's shares. The shares so hold over sessions. Where the shares of two classes differ, only
as many points change their option as must: an option keeps all of what it had up to its new share.

*Replicas.* Each option's replicas stand at many points of a circle (consistent hashing). A session tries
two places and takes the replica that comes next to either (multi-probe hashing, Appleton and O'Reilly 2015,
arXiv:1505.00062), which halves how uneven the circle is. A replica that comes or goes moves its own
sessions only. Any further choice looks at two more places: those that one replica sheds, all others share.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import ModelPlan
    from melange_sky.routing.table import RoutingState, RoutingTable
    from melange_sky.routing.vector import Vector

BITS = 30
SPAN = 1 << BITS
RECENT_REQUESTS = 1024.0
"""Over about how many requests of a class it is seen whether an option gets more than its share."""
_IN_A_ROW = 8.0
"""How many requests of a session may come in a row without being taken for more than chance."""
_POINTS = 8192
_MOST_POINTS, _LEAST_POINTS = 1024, 16


class Homes(NamedTuple):
    """The homes of all sessions. Sizes: C classes, K options, P pieces, N points.

    The pieces of class c are piece_first[c] … piece_first[c + 1] − 1, rising; each ends before
    `piece_end` and belongs to `piece_option`. `most` (C × K): the part of a class's requests beyond which
    an option gets more than its share. The points of option k lie in `point_at`, rising, with their
    replicas in `point_replica`; `steps` from first_step[k] on holds the first point at or after each
    multiple of 2 ** shift[k]. What changes: `recent` (C × K), the parts that options got of each class's last requests.
    """

    piece_first: Vector[int]
    piece_end: Vector[int]
    piece_option: Vector[int]
    most: Vector[float]
    point_at: Vector[int]
    point_replica: Vector[int]
    steps: Vector[int]
    first_step: Vector[int]
    shift: Vector[int]
    recent: Vector[float]


def session_homes(
    plan: ModelPlan,
    table: RoutingTable,
    state: RoutingState,
    names: Sequence[str] | None = None,
) -> Homes:
    """Return the homes of sessions under a plan, of which `state` is the state before any request.

    `names` tell the replicas apart, in the order of the table; by default by their number in the option.
    """
    options = [a.candidate.option.name for a in plan.allocations]
    names = names or [str(r - table.first[table.option_of[r]]) for r in range(table.replicas)]
    pieces = _pieces(table, state, options)
    shares = [state.mix[at] for at in range(len(state.mix))]
    at: list[int] = []
    replicas: list[int] = []
    steps: list[int] = []
    first_step, shift = [], []
    for k, allocation in enumerate(plan.allocations):
        first, end = table.first[k], table.first[k + 1]
        circle = _circle(tuple(names[first:end]), _points(allocation.instances, end - first))
        first_step.append(len(steps))
        shift.append(circle.shift)
        steps += [len(at) + i for i in circle.steps]
        at += circle.at
        replicas += [first + r for r in circle.replica]
    return Homes(
        piece_first=pieces[0],
        piece_end=pieces[1],
        piece_option=pieces[2],
        most=[_most(share) for share in shares],
        point_at=array("q", at),
        point_replica=array("q", replicas),
        steps=array("q", steps),
        first_step=first_step,
        shift=shift,
        recent=shares,
    )


def _most(share: float) -> float:
    """Return the part of requests that is more than a share, and more than chance would give it."""
    spread = math.sqrt(_IN_A_ROW * share * (1.0 - share) / (2.0 * RECENT_REQUESTS))
    return max(1.25 * share, share + 4.0 * spread)


def _pieces(
    table: RoutingTable, state: RoutingState, options: Sequence[str]
) -> tuple[list[int], list[int], list[int]]:
    """Divide the span for every class: (first piece of each, ends, options).

    From one input bucket to the next, as sessions grow, and within it from requests without
    `max_tokens` to those with it.
    """
    order = sorted(range(table.options), key=lambda k: options[k])
    divided: dict[int, list[tuple[int, int]]] = {}
    before: list[tuple[int, int]] = [(SPAN, order[0])]
    for i in range(table.inputs):
        base = i * (table.outputs + 1)
        for m in (table.outputs, *range(table.outputs)):
            c = base + m
            shares = [state.mix[c * table.options + k] for k in range(table.options)]
            divided[c] = divide(before, shares, order)
            if m == table.outputs:
                before = divided[c]
    first = [0]
    ends: list[int] = []
    chosen: list[int] = []
    for c in range(len(divided)):
        ends += [end for end, _ in divided[c]]
        chosen += [k for _, k in divided[c]]
        first.append(len(ends))
    return first, ends, chosen


def divide(
    before: Sequence[tuple[int, int]], shares: Sequence[float], order: Sequence[int]
) -> list[tuple[int, int]]:
    """Divide the span anew by `shares` per option, from pieces (end, option), changing as little as can be.

    `order` of the options tells who gets first what others leave. Without any share all stays.
    """
    due = _whole(shares, order)
    if due is None:
        return list(before)
    kept: list[tuple[int, int, int]] = []  # start, end, option; −1 for what is left
    start = 0
    for end, k in before:
        stays = start + min(end - start, due[k])
        due[k] -= stays - start
        kept += [(start, stays, k), (stays, end, -1)]
        start = end
    takers = iter([k for k in order if due[k] > 0])
    taker = next(takers, -1)
    pieces: list[tuple[int, int]] = []
    for first, end, k in kept:
        at = first
        while at < end:
            owner, until = k, end
            if k < 0:
                while due[taker] == 0:
                    taker = next(takers)
                owner, until = taker, min(end, at + due[taker])
                due[taker] -= until - at
            if pieces and pieces[-1][1] == owner:
                pieces.pop()
            pieces.append((until, owner))
            at = until
    return pieces


def _whole(shares: Sequence[float], order: Sequence[int]) -> list[int] | None:
    """Return shares as whole numbers that add up to SPAN, None where there are none."""
    total = sum(shares)
    if total <= 0:
        return None
    due, passed, given = [0] * len(shares), 0.0, 0
    for k in order:
        passed += shares[k]
        due[k] = min(SPAN, round(passed / total * SPAN)) - given
        given += due[k]
    return due


class _Circle(NamedTuple):
    at: list[int]
    replica: list[int]
    steps: list[int]
    shift: int


def _points(planned: int, there: int) -> int:
    """Return how many points each replica gets: by the plan, so that they stay as replicas come and go.

    All of an option have about `_POINTS` together, but each at least so many that they are even.
    """
    count = max(planned, there // 4, 1)
    return max(_LEAST_POINTS, min(_MOST_POINTS, _POINTS // (1 << (count - 1).bit_length())))


@lru_cache(maxsize=64)
def _circle(names: tuple[str, ...], points: int) -> _Circle:
    """Place replicas on a circle, after whose end its first point comes again."""
    found = []
    for replica, name in enumerate(names):
        digest = hashlib.shake_256(name.encode("utf-8", "surrogatepass")).digest(4 * points)
        places = array("I", digest)
        if places.itemsize != 4:  # pragma: no cover - no platform of today
            raise AssertionError("array('I') is not of four bytes")
        found += [((place & (SPAN - 1)) << 32) + replica for place in places]
    if not found:
        return _Circle([2 * SPAN], [0], [0], BITS)
    found.sort()
    at = [each >> 32 for each in found]
    replicas = [each & 0xFFFFFFFF for each in found]
    at.append(at[0] + SPAN)
    replicas.append(replicas[0])
    shift = max(0, BITS - max(len(found) - 1, 1).bit_length())
    steps, point = [], 0
    for step in range(1 << (BITS - shift)):
        while at[point] < step << shift:
            point += 1
        steps.append(point)
    return _Circle(at, replicas, steps, shift)
