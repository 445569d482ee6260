"""What gateways count: `/metrics` of each, together one reading of the plan's traffic."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.gateway.metrics import bucket_labels
from melange_sky.metrics_page import labelled, labels_of
from melange_sky.planner.watching.sources.counting import Counting, Reading
from melange_sky.planner.watching.sources.fetching import fetch, metrics_url
from melange_sky.planner.watching.sources.together import added
from melange_sky.watching.seen import Fault, Seen

if TYPE_CHECKING:
    from melange_sky.plans import ModelPlan
    from melange_sky.watching.seen import FaultCode

PREFIX = "melange_gateway_"
NAMES: Mapping[str, str] = {
    f"{PREFIX}requests_total": "finished",
    f"{PREFIX}answers_total": "answers",
    f"{PREFIX}slo_total": "slo",
    f"{PREFIX}in_flight": "in_flight",
    f"{PREFIX}queued": "queued",
    f"{PREFIX}healthy_backends": "healthy",
    f"{PREFIX}workers": "workers",
    f"{PREFIX}before_sending_seconds_count": "sent",
}
"""What is read of a gateway's page, by short names."""

LABELS = frozenset({"plan", "option", "input_bucket", "output_bucket", "status", "result", "which"})
"""Their labels."""

_KINDS = {
    **dict.fromkeys(("429", "503"), "refused"),
    **dict.fromkeys(("broken", "500", "502", "504"), "failed"),
}
"""Statuses of answers that were no service: what was refused, or failed, is demand all the same."""

Sample = tuple[str, Mapping[str, str], float]
"""A figure: its short name, its labels, its value."""


def samples_of(page: str) -> list[Sample]:
    """Return a page's figures."""
    return [(short, labels_of(text), value) for short, text, value in labelled(page, NAMES)]


@dataclass(slots=True, kw_only=True)
class GatewayCounting:
    """Readings of one gateway, as far as they are of one model's plan; `name` is what messages call it."""

    plan: ModelPlan
    name: str
    _counting: Counting = field(init=False)
    _places: dict[tuple[str, str], tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        """Begin without any."""
        inputs, outputs = bucket_labels(self.plan.workload)
        self._counting = Counting(name=self.name)
        self._places = {(a, b): (i, j) for i, a in enumerate(inputs) for j, b in enumerate(outputs)}

    def seen(self, samples: Sequence[Sample], time_s: float, steady_s: float | None) -> Seen:
        """Return what came since the figures before."""
        wrong = self._wrong(samples)
        faults = () if wrong is None else (wrong,)
        reading = Reading(time_s=time_s, steady_s=steady_s, faults=faults)
        return self._counting.seen(reading if faults else self._read(samples, reading))

    def missed(self, code: FaultCode, message: str, time_s: float) -> Seen:
        """Return a look that told nothing, and why."""
        fault = Fault(code=code, message=f"{self.name}: {message}")
        return self._counting.seen(Reading(time_s=time_s, faults=(fault,)))

    def _wrong(self, samples: Sequence[Sample]) -> Fault | None:
        if not samples:
            message = f"has no {PREFIX}… figures: is this a gateway of this version?"
            return Fault(code="renamed", message=f"{self.name}: {message}")
        if not all(math.isfinite(value) and value >= 0 for _, _, value in samples):
            return Fault(code="renamed", message=f"{self.name}: has figures that count nothing")
        served = {labels.get("plan", "") for short, labels, _ in samples if short == "healthy"}
        if self.plan.name not in served:
            known = ", ".join(sorted(served))[:80] or "none"
            message = f"serves {known}, not the plan '{self.plan.name}'"
            return Fault(code="missing", message=f"{self.name}: {message}")
        workers = {labels.get("which"): n for short, labels, n in samples if short == "workers"}
        if workers.get("answered", 0) < workers.get("all", 0):
            message = f"{workers['answered']:.0f} of {workers['all']:.0f} workers answered"
            return Fault(code="missing", message=f"{self.name}: {message}")
        return None

    def _read(self, samples: Sequence[Sample], empty: Reading) -> Reading:
        rows = {i for i, _ in self._places.values()}, {j for _, j in self._places.values()}
        finished = np.zeros((len(rows[0]), len(rows[1])))
        live: dict[str, int] = {}
        sums: dict[str, float] = defaultdict(float)
        for short, labels, value in samples:
            if short == "sent":  # of all plans
                sums["touched"] += value
            if labels.get("plan") != self.plan.name:
                continue
            if short == "healthy":
                live[labels.get("option", "")] = int(value)
            elif short == "finished":
                bucket = labels.get("input_bucket", ""), labels.get("output_bucket", "")
                finished[self._places.get(bucket, (-1, -1))] += value
            elif short == "answers":
                sums[_KINDS.get(labels.get("status", ""), "answered")] += value
            else:
                sums[labels.get("result", short)] += value
        touched = sums["touched"] + sums["refused"] + sums["failed"] + float(finished.sum())
        return replace(
            empty,
            finished=finished,
            refused=sums["refused"],
            failed=sums["failed"],
            within=sums["in_flight"] + sums["queued"],
            queue=sums["queued"],
            met=sums["met"],
            missed=sums["missed"],
            touched=touched,
            live=live,
        )


@dataclass(slots=True, kw_only=True)
class GatewaySource:
    """One or several gateways of a plan of one model, asked for their metrics.

    `key` is a client's, never shown. `clock` is in seconds since 1970, `steady` one that nobody sets.
    """

    urls: Sequence[str]
    plan: ModelPlan
    key: str | None = field(default=None, repr=False)
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _counting: dict[str, GatewayCounting] = field(init=False)

    def __post_init__(self) -> None:
        """Check the addresses. Raises InputError."""
        urls = dict.fromkeys(metrics_url(url, "--gateway") for url in self.urls)
        self._counting = {
            url: GatewayCounting(plan=self.plan, name=url.removesuffix("/metrics")) for url in urls
        }

    def see(self) -> Seen:
        """Return what came since the look before."""
        return added(
            [self._look(url, counting) for url, counting in self._counting.items()], self.clock()
        )

    def _look(self, url: str, counting: GatewayCounting) -> Seen:
        page = fetch(url, self.key)
        if page.text is None:
            return counting.missed("unreachable", page.why, self.clock())
        return counting.seen(samples_of(page.text), self.clock(), self.steady())
