"""Stack distances of what prompts share, exactly as an engine's cache orders its blocks.

Engines give up the block that was used longest ago, and of one request the deepest first: so the root of a
path is the last of it to go. All blocks of a segment therefore stand beside each other in that order, and a cache of C blocks
of which A are used more recently than a segment holds the first C - A of it. Each use adds a ramp to the curve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.prefixes.scans import NONE, Uses, measure_distances_fast
from melange_sky.reuse import Reuse, Spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reuse import PrefixPaths

    Whole = NDArray[np.int64]
    Floats = NDArray[np.float64]

CURVE_LEVELS = 40
"""A curve that is written down is off the whole one by less than one part of so many."""

COMMON_SHARE = 0.5
"""Of all sessions, so many at least begin alike where that is told as their shared prefix."""


def reuse_of(
    paths: PrefixPaths,
    input_tokens: Whole,
    output_tokens: Whole,
    arrival_s: Floats | None = None,
    *,
    told_by_tokens: int,
    source: str,
) -> Reuse:
    """Return the reuse of N requests in the order in which they came; sizes and times of shape (N,).

    `told_by_tokens` is how finely the source tells what is shared.
    """
    above, held = ramps(paths, input_tokens, output_tokens)
    total = max(int(input_tokens.sum()), 1)
    block = paths.block_tokens
    prefix, fraction = _shared(paths, total)
    return Reuse(
        stack_distance=_curve(above * block, held * block, total),
        infinite_hit=float(held.sum()) * block / total,
        block_tokens=told_by_tokens,
        shared_prefix_tokens=prefix,
        shared_fraction=fraction,
        session_turns=_spread(np.unique(paths.session, return_counts=True)[1]),
        think_time_s=None if arrival_s is None else _think_times(paths.session, arrival_s),
        source=source,
    )


def ramps(paths: PrefixPaths, input_tokens: Whole, output_tokens: Whole) -> tuple[Whole, Whole]:
    """Return (above, held) of every segment that a prompt finds, in blocks, in the order of the prompts.

    A cache of C blocks finds the first C - above of its `held` ones. What a prompt finds leaves at least its
    last token to be computed.
    """
    above, held, _ = _uses(paths, input_tokens, output_tokens)
    return above, held


def endless_tokens(paths: PrefixPaths, input_tokens: Whole, output_tokens: Whole) -> Whole:
    """Return the tokens of each prompt that an endless cache finds, shape (N,)."""
    _, held, request = _uses(paths, input_tokens, output_tokens)
    found: Whole = np.bincount(request, weights=held, minlength=len(paths)).astype(np.int64)
    return found * paths.block_tokens


def _uses(
    paths: PrefixPaths, input_tokens: Whole, output_tokens: Whole
) -> tuple[Whole, Whole, Whole]:
    """Return what `ramps` does, and whose prompt each is."""
    block = paths.block_tokens
    request = np.repeat(np.arange(len(paths)), np.diff(paths.first))
    own = np.zeros(len(paths), dtype=np.int64)
    np.add.at(own, request, paths.blocks[paths.segment])
    # The last token is never read, and a block that is not full never found: it is free again at once.
    whole = (input_tokens + output_tokens - 1) // block
    uses = Uses(
        first=paths.first,
        prompt=paths.prompt,
        segment=paths.segment,
        blocks=paths.blocks,
        alone=np.maximum(whole - own, 0),
        tree=np.zeros(len(paths.segment) + len(paths) + 1, dtype=np.int64),
        place=np.zeros(max(len(paths.blocks), 1), dtype=np.int64),
        above=np.full(max(len(paths.segment), 1), NONE, dtype=np.int64),
    )
    measure_distances_fast(uses)
    above = uses.above[: len(paths.segment)]
    used = np.flatnonzero(above != NONE)
    segment = paths.segment[used]
    most = (input_tokens[request[used]] - 1) // block
    begin = paths.end[segment] - paths.blocks[segment]
    held = np.clip(most - begin, 0, paths.blocks[segment])
    kept = held > 0
    return above[used][kept], held[kept], request[used][kept]


def _curve(above: Whole, held: Whole, total: int) -> tuple[tuple[int, float], ...]:
    """Return a few points of the curve, in tokens; it is straight from bend to bend."""
    if not len(above):
        return ((0, 0.0),)
    places = np.concatenate([above, above + held])
    slopes = np.concatenate([np.ones(len(above)), -np.ones(len(above))])
    bends, at = np.unique(places, return_inverse=True)
    slope = np.cumsum(np.bincount(at, weights=slopes))
    found = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(bends))])
    levels = np.linspace(0.0, found[-1], CURVE_LEVELS + 1)
    # the bends on both sides of every level: no other lies further from the line between two of them
    left = np.searchsorted(found, levels, side="right") - 1
    picked = np.unique(np.clip(np.concatenate([left, left + 1, [0]]), 0, len(bends) - 1))
    return tuple((int(bends[k]), float(found[k]) / total) for k in picked)


def _shared(paths: PrefixPaths, total: int) -> tuple[int, float]:
    """Return the tokens with which most sessions begin, and their part of all prompt tokens."""
    session = paths.session[np.repeat(np.arange(len(paths)), np.diff(paths.first))]
    pairs = np.unique(np.stack([paths.segment, session]), axis=1)
    sessions = np.bincount(pairs[0], minlength=len(paths.blocks))
    common = sessions >= max(COMMON_SHARE * len(np.unique(paths.session)), 2)
    uses = np.bincount(paths.segment, minlength=len(paths.blocks))
    tokens = int(paths.end[common].max(initial=0)) * paths.block_tokens
    return tokens, float((uses * paths.blocks)[common].sum()) * paths.block_tokens / total


def _spread(values: Whole | Floats) -> Spread | None:
    if not len(values):
        return None
    return Spread(mean=float(values.mean()), p95=float(np.quantile(values, 0.95)))


def _think_times(session: Whole, arrival_s: Floats) -> Spread | None:
    """Return the seconds from one request of a session to its next one."""
    order = np.argsort(session, kind="stable")
    same = np.diff(session[order]) == 0
    return _spread(np.diff(arrival_s[order])[same])
