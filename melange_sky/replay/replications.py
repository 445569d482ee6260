"""Independent replications as one run: each starts empty, they follow each other in time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.simulator.fleet import FleetRun
from melange_sky.slo import RequestLog

if TYPE_CHECKING:
    from numpy.typing import NDArray


def lasted_s(run: FleetRun) -> float:
    """Return seconds from time 0 to the last token or the last arrival, whichever is later."""
    log = run.log
    ends = [log.arrival_s[-1:], log.last_token_s[log.ok]]
    return float(max((e.max() for e in ends if len(e)), default=0.0))


def joined_log(logs: Sequence[RequestLog], offsets_s: Sequence[float]) -> RequestLog:
    """Return the records of all logs in order, each log's times moved by its offset."""
    if len(logs) == 1:
        return logs[0]
    times = {
        name: np.concatenate(
            [getattr(log, name) + by for log, by in zip(logs, offsets_s, strict=True)]
        )
        for name in ("arrival_s", "first_token_s", "last_token_s")
    }
    same = ("input_tokens", "output_tokens", "ok", "option")
    values = {name: np.concatenate([getattr(log, name) for log in logs]) for name in same}
    return RequestLog(**times, **values, options=logs[0].options)


def joined(runs: Sequence[FleetRun]) -> FleetRun:
    """Return replications of one fleet as a single run.

    Shares of busy time are means weighted by how long each replication lasted.
    """
    if len(runs) == 1:
        return runs[0]
    lengths_s = [lasted_s(run) for run in runs]
    offsets_s = [sum(lengths_s[:k]) for k in range(len(runs))]

    def stacked(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(run, name) for run in runs])

    samples = [run.sample_s + by for run, by in zip(runs, offsets_s, strict=True)]
    busy = np.stack([run.busy_fraction for run in runs])
    weights = np.array(lengths_s)[:, None] / max(sum(lengths_s), 1e-300)
    return dataclasses.replace(
        runs[0],
        log=joined_log([run.log for run in runs], offsets_s),
        replica=stacked("replica"),
        reason=stacked("reason"),
        busy_fraction=(busy * weights).sum(axis=0),
        preemptions=np.stack([run.preemptions for run in runs]).sum(axis=0),
        sample_s=np.concatenate(samples),
        waiting=stacked("waiting"),
        running=stacked("running"),
        kv_used=stacked("kv_used"),
        found_tokens=None if runs[0].found_tokens is None else stacked("found_tokens"),
    )
