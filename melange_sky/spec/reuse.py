"""What prompts share, as a spec says it: a word, or figures such as `melange-sky workload` writes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from melange_sky.reuse import Reuse, Spread

if TYPE_CHECKING:
    from melange_sky.spec.problems import Place
    from melange_sky.spec.schema import ReuseSection, SpreadSection

NONE, FROM_FILE = "none", "file"
_ROUNDING = 1e-6


def read_reuse(raw: object, place: Place) -> Reuse | None:
    """Return the reuse that a mapping states; None with the problems noted where it cannot be."""
    from melange_sky.spec.schema import ReuseSection  # which a trace's histogram does without

    section = place.problems.section(ReuseSection, raw, place.at)
    if section is None:
        return None
    if not (section.stack_distance or section.session_turns or section.shared_prefix_tokens):
        place.add("must have stack_distance, session_turns or shared_prefix_tokens")
        return None
    curve = _curve(section, place)
    turns = _spread(section.session_turns, place / "session_turns", at_least=1.0)
    think = _spread(section.think_time_s, place / "think_time_s")
    if curve == () and section.infinite_hit is not None:
        (place / "infinite_hit").add("goes with stack_distance; sessions tell it themselves")
        return None
    if curve is None:
        return None
    return Reuse(
        stack_distance=curve,
        infinite_hit=curve[-1][1] if curve else 0.0,
        block_tokens=section.block_tokens,
        shared_prefix_tokens=section.shared_prefix_tokens,
        shared_fraction=section.shared_fraction or 0.0,
        session_turns=turns,
        think_time_s=think,
        source=section.source or "stated in the spec",
    )


def _curve(section: ReuseSection, place: Place) -> tuple[tuple[int, float], ...] | None:
    """Return the stack-distance curve, empty where none is stated; None with the problem noted."""
    rows = section.stack_distance or []
    points = tuple((int(tokens), fraction) for tokens, fraction in rows)
    where = place / "stack_distance"
    if any(b[0] <= a[0] or b[1] < a[1] for a, b in itertools.pairwise(points)):
        where.add("must be pairs of tokens and fractions, both rising")
        return None
    if points and points[-1][1] >= 1:
        where.add("must stay below 1: the last token of a prompt is always computed")
        return None
    endless = section.infinite_hit
    if points and endless is not None and abs(points[-1][1] - endless) > _ROUNDING:
        (place / "infinite_hit").add(
            f"must be the last fraction of stack_distance, {points[-1][1]:g}"
        )
        return None
    return points


def _spread(section: SpreadSection | None, place: Place, at_least: float = 0.0) -> Spread | None:
    if section is None:
        return None
    p95 = section.mean if section.p95 is None else section.p95
    if section.mean < at_least:
        (place / "mean").add(f"must be at least {at_least:g}")
    return Spread(mean=section.mean, p95=p95)


def reuse_lines(reuse: Reuse | None) -> list[str]:
    """Return the lines that state a reuse within a `workload:` section, none for None."""
    if reuse is None or not reuse.stack_distance:
        return []
    points = ", ".join(f"[{tokens}, {fraction:.6f}]" for tokens, fraction in reuse.stack_distance)
    lines = [
        "  reuse:",
        f'    source: "{reuse.source}"',
        f"    block_tokens: {reuse.block_tokens}",
        f"    shared_prefix_tokens: {reuse.shared_prefix_tokens}",
        f"    shared_fraction: {reuse.shared_fraction:.6f}",
    ]
    for name, spread in (
        ("session_turns", reuse.session_turns),
        ("think_time_s", reuse.think_time_s),
    ):
        if spread is not None:
            lines.append(f"    {name}: {{mean: {spread.mean:.4f}, p95: {spread.p95:.4f}}}")
    lines.append(f"    infinite_hit: {reuse.stack_distance[-1][1]:.6f}")
    lines.append(
        f"    stack_distance: [{points}]  # [tokens of cache, fraction of prompt tokens found]"
    )
    return lines
