"""What fleets of one plan hold in replay, each replayed once and kept by content.

A plan's capacities are those of replicas by themselves, headroom kept: several together hold more, since chance
evens out among them. What is replayed is the fleet behind the plan's own routing, at steady rates of the plan's sizes,
and its knee is what it holds. Replay goes by the engine model: fleets that rest on measured or observed figures keep
the plan's own rates, as do plans at another confidence than the median, whose caution no replay shows.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from melange_sky.capacities import Origin
from melange_sky.planner.confidence import MEDIAN
from melange_sky.planner.knee import find_knee
from melange_sky.profiles.cache import keep, read_kept
from melange_sky.settings import estimates_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from melange_sky.plans import Allocation, ModelPlan, Plan

VERSION = 1
"""Raise it when the simulator or the knee's search change what they answer."""

GUESS = 1.2
"""Most fleets hold so many times their planned rate, headroom included: there the search begins."""

RateOrigin = Literal["replayed", "planned"]


class ProvenRates:
    """The highest rates at which fleets of one model hold the SLO in replay, in requests per second."""

    def __init__(self, plan: Plan, folder: Path | None = None) -> None:
        """Read what is kept for a plan of one model; `folder` defaults to that of estimates."""
        (model,) = plan.models
        self._model = model
        self._asks = plan.confidence == MEDIAN and all(
            c.option.engine is not None and model.shape_of(c.option) is not None
            for c in model.candidates
        )
        folder = estimates_dir() if folder is None else folder
        self._path = folder / f"fleets-{_fingerprint(model)}.json"
        self._known = self._read() if self._asks else {}
        self._changed = False

    def of(self, counts: Mapping[str, int], planned: Callable[[], ModelPlan]) -> float | None:
        """Return what a fleet, replicas by option, holds: None where replay has no say. `planned` gives its plan."""
        if not self._asks:
            return None
        name = json.dumps(sorted(counts.items()))
        if name not in self._known:
            self._known[name] = self._replayed(planned())
            self._changed = True
        return self._known[name]

    def _replayed(self, fleet: ModelPlan) -> float | None:
        if any(_is_seen(a, fleet) for a in fleet.allocations):
            return None
        fleet = replace(fleet, rate_profile=self._model.rate_profile)
        knee = find_knee(fleet, math.inf, GUESS)
        return None if knee is None else knee.holds_rps

    def _read(self) -> dict[str, float | None]:
        try:
            rows = read_kept(self._path).items()
            return {str(k): None if rate is None else float(rate) for k, rate in rows}
        except (ValueError, TypeError, AttributeError):
            return {}

    def save(self) -> None:
        """Write what was replayed anew. Failure is no error: it costs time, never an answer."""
        if self._changed:
            self._changed = not keep(self._path, dict(sorted(self._known.items())))


def _is_seen(allocation: Allocation, model: ModelPlan) -> bool:
    """Return whether any size that an allocation serves has a rate that was seen rather than estimated."""
    cells, shares = allocation.candidate.cells, allocation.shares
    return any(
        shares[i][j] > 0 and cells[i][j].origin is not Origin.ESTIMATED
        for i, j in model.workload.buckets()
    )


def _fingerprint(model: ModelPlan) -> str:
    """Return a hash of all that decides what a fleet holds: traffic, limits, engines and who serves what."""
    workload, total = model.workload, model.workload.rate_rps or 1.0
    mix = [[f"{rate / total:.9g}" for rate in row] for row in workload.rates_rps]
    options = [(c.option.name, c.option.engine, c.cells) for c in model.candidates]
    profile = model.rate_profile
    content = (
        VERSION,
        (workload.input_sizes, workload.output_sizes, workload.images, workload.reuse, mix),
        (model.slo, model.attainment_per_bucket, model.reuse, model.spot),
        None if profile is None else profile.burstiness,
        (model.engine, model.engine_generation, model.forms, model.model_shape),
        options,
    )
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]
