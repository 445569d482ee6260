"""Minutes of steady watching, cut out of looks that may be missing, frozen, or interrupted by restarts."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from melange_sky.learning.scrapes import COUNTERS, FOUND, GAUGES, Scrape, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

WINDOW_S = 60.0
LEAST_DECODED = 50
"""Windows with fewer tokens say too little."""

_LATE = 2.5
"""Looks further apart than so many times their usual distance miss some in between."""

RESTARTED = "a server started anew"
MISSING = "looks are missing"
CLOCK = "the clock was set"
FROZEN = "figures stood still while requests ran"
BUCKETS = "the buckets of a histogram changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one engine did in about a minute; of several behind one page the mean.

    `decoding` is how many sequences were decoded at a time on average, `step_s` the seconds between two
    tokens as tokens saw it, `firsts_rps` and `prompt_tps` prompts and their computed tokens per second,
    `ttft_s` the mean time to the first token on the server, `kv_use` the fraction of the KV cache in use,
    `waiting` the most requests that any look saw queued.
    """

    seconds: float
    decoding: float
    step_s: float
    decoded: float
    firsts_rps: float
    prompt_tps: float
    ttft_s: float
    firsts: float
    kv_use: float
    waiting: float
    engines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """The windows of one server, the sizes of its requests over all, and what was cut out, with how often."""

    windows: tuple[Window, ...]
    prompts: Sizes | None
    answers: Sizes | None
    cuts: Counter[str]


def windows_of(scrapes: Sequence[Scrape], window_s: float = WINDOW_S) -> Watched:
    """Return what a server's looks tell, in the order in which they were taken.

    A window ends where looks are missing, the clock was set, or a counter fell; one in which requests ran but
    no counter moved is left out. Nothing of it is guessed over the gap.
    """
    cuts: Counter[str] = Counter()
    found: list[Window] = []
    sizes: list[tuple[Sizes | None, Sizes | None]] = []
    for run in _runs(scrapes, cuts):
        if run[0].prompts is not None and run[-1].prompts is not None:
            sizes.append((_since(run, "prompts", cuts), _since(run, "answers", cuts)))
        found.extend(_windows(run, window_s, cuts))
    prompts, answers = (
        (_together(column) for column in zip(*sizes, strict=True)) if sizes else (None, None)
    )
    return Watched(windows=tuple(found), prompts=prompts, answers=answers, cuts=cuts)


def _since(run: Sequence[Scrape], name: str, cuts: Counter[str]) -> Sizes | None:
    first, last = getattr(run[0], name), getattr(run[-1], name)
    if first is None or last is None:
        return None
    found: Sizes | None = last.since(first)
    if found is None:
        cuts[BUCKETS] += 1
    return found


def _together(parts: Iterable[Sizes | None]) -> Sizes | None:
    known = [part for part in parts if part is not None and part.requests > 0]
    if not known:
        return None
    edges = max(
        (part.edges for part in known), key=lambda e: sum(p.requests for p in known if p.edges == e)
    )
    same = [part for part in known if part.edges == edges]
    return Sizes(
        edges=edges,
        counts=tuple(sum(column) for column in zip(*(part.counts for part in same), strict=True)),
        tokens=sum(part.tokens for part in same),
    )


def pooled(parts: Iterable[Watched]) -> Watched:
    """Return what several servers of one kind told, as of one."""
    all_of = list(parts)
    return Watched(
        windows=tuple(window for part in all_of for window in part.windows),
        prompts=_together(part.prompts for part in all_of),
        answers=_together(part.answers for part in all_of),
        cuts=sum((part.cuts for part in all_of), Counter()),
    )


def _runs(scrapes: Sequence[Scrape], cuts: Counter[str]) -> Iterator[list[Scrape]]:
    """Yield stretches of looks that follow each other without a gap."""
    gaps = [b.time_s - a.time_s for a, b in pairwise(scrapes) if b.time_s > a.time_s]
    usual = statistics.median(gaps) if gaps else 0.0
    run: list[Scrape] = []
    for scrape in scrapes:
        reason = _cut(run[-1], scrape, usual) if run else None
        if reason is not None:
            cuts[reason] += 1
            if len(run) > 1:
                yield run
            run = []
        run.append(scrape)
    if len(run) > 1:
        yield run


def _cut(before: Scrape, after: Scrape, usual_s: float) -> str | None:
    """Return why two looks do not belong together, None where they do."""
    passed = after.time_s - before.time_s
    if passed <= 0:
        return CLOCK
    if passed > _LATE * usual_s:
        return MISSING
    if after.engines != before.engines or any(
        after.figures[name] < before.figures[name] for name in COUNTERS
    ):
        return RESTARTED
    return None


def _windows(run: Sequence[Scrape], window_s: float, cuts: Counter[str]) -> Iterator[Window]:
    start = 0
    for end in range(1, len(run)):
        if run[end].time_s - run[start].time_s < window_s:
            continue
        window = _window(run[start : end + 1])
        if window is None:
            cuts[FROZEN] += 1
        elif window.decoded >= LEAST_DECODED:
            yield window
        start = end


def _window(looks: Sequence[Scrape]) -> Window | None:
    """Return what happened between the first and the last look, None where nothing moved in spite of work."""
    first, last = looks[0], looks[-1]
    moved = {name: last.figures[name] - first.figures[name] for name in COUNTERS}
    gauges = {name: [look.figures[name] for look in looks] for name in GAUGES}
    if not any(moved.values()) and min(gauges["running"]) > 0:
        return None
    seconds, engines = last.time_s - first.time_s, first.engines
    decoded, firsts = moved["decoded"], moved["first_tokens"]
    found = last.figures.get(FOUND, 0.0) - first.figures.get(FOUND, 0.0)
    return Window(
        seconds=seconds,
        decoding=moved["decode_s"] / seconds / engines,
        step_s=moved["decode_s"] / decoded if decoded else 0.0,
        decoded=decoded,
        firsts_rps=firsts / seconds / engines,
        prompt_tps=max(moved["prompted"] - found, 0.0) / seconds / engines,
        ttft_s=moved["ttft_s"] / firsts if firsts else 0.0,
        firsts=firsts,
        kv_use=statistics.fmean(gauges["kv_use"]),
        waiting=max(gauges["waiting"]) / engines,
        engines=engines,
    )
