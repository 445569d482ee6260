"""Stretches of a long trace that stand for all of it, so that a fleet is judged in seconds.

A trace is cut into windows of as many requests each, and these are ordered by how busy they are.
Every n-th of that order is replayed (systematic sampling of an ordered list: Cochran, Sampling
Techniques, ch. 8), so that quiet nights and busy hours count by their requests. Each window starts
on an empty fleet: what an hour of overload leaves behind is not in it, which is why the whole trace is
replayed before a fleet is believed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.replay.verdict import attainment_interval, judged_window
from melange_sky.simulator import RequestStream
from melange_sky.slo import meets, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.simulator.fleet import FleetRun
    from melange_sky.slo import SLO

WINDOW_REQUESTS = 2_000
STAGES = (5, 15, 45)
"""Windows for a fleet that is far from its target, nearer to it, and near; each stage holds the one before."""

LONG_REQUESTS = 150_000
"""Requests above which a trace is judged by windows first."""

BUSY_S = 10.0
"""Seconds over which a window's rate is taken as its requests meet it."""


def windows_of(stream: RequestStream, count: int, shift: float = 0.0) -> list[RequestStream]:
    """Return `count` windows of a trace, the quietest first; times keep the trace's own zero.

    `shift`, above −0.5 and under 0.5, moves the places in the order of business at which windows are taken. A
    trace of fewer windows is returned whole, in one piece.
    """
    number = len(stream) // WINDOW_REQUESTS
    if number <= count:
        return [stream]
    edges = np.linspace(0, len(stream), number + 1).astype(np.int64)
    order = np.argsort(_business(stream.arrival_s, edges), kind="stable")
    places = ((np.arange(count) + 0.5 + shift) * number / count).astype(np.int64)
    return [_part(stream, edges[k], edges[k + 1]) for k in order[places]]


def _business(arrival_s: NDArray[np.float64], edges: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return, for each window, how many requests one of its requests meets within its ten seconds."""
    _, place, counts = np.unique(
        np.floor(arrival_s / BUSY_S), return_inverse=True, return_counts=True
    )
    met = np.concatenate([[0.0], np.cumsum(counts[place], dtype=np.float64)])
    business: NDArray[np.float64] = (met[edges[1:]] - met[edges[:-1]]) / np.diff(edges)
    return business


def _part(stream: RequestStream, first: int, end: int) -> RequestStream:
    part = stream.part(first, end)
    return replace(part, arrival_s=part.arrival_s - part.arrival_s[0])


def interval_over_windows(runs: Sequence[FleetRun], slo: SLO) -> tuple[float, float]:
    """Return the 95 % interval of the attainment over a trace by its windows, the quietest first.

    Neighbours in the order are alike, so half their squared differences tell the error of the mean.
    """
    good = [meets(run.log.select(judged_window(run.log)[0]), slo) for run in runs]
    if len(runs) < STAGES[0]:
        return attainment_interval(np.concatenate(good))
    means = np.array([one.mean() for one in good])
    fraction, count = float(means.mean()), sum(map(len, good))
    variance = float((np.diff(means) ** 2).sum()) / (2 * len(means) * (len(means) - 1))
    if not 0.0 < fraction < 1.0 or variance <= 0:
        return wilson_interval(round(fraction * count), count)
    effective = max(1, min(count, round(fraction * (1 - fraction) / variance)))
    return wilson_interval(round(fraction * effective), effective)
