"""What a Prometheus scraped of gateways, or of replicas where it knows no gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.errors import MelangeError
from melange_sky.planner.watching.sources.gateway import LABELS, NAMES, GatewayCounting, Sample
from melange_sky.planner.watching.sources.together import added
from melange_sky.watching.seen import Fault, Seen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import ModelPlan
    from melange_sky.profiler.prometheus import Latest, Prometheus, Target
    from melange_sky.watching.seen import FaultCode

BACK_S = 300.0
"""How far back the last sample may lie to be found at all."""

OLD_S = 150.0
"""Seconds after which the last sample is out of date: a scrape a minute may be missed once."""


@dataclass(slots=True, kw_only=True)
class PrometheusSource:
    """The gateways of a plan of one model as a Prometheus scrapes them; `select` as in `Prometheus.latest`."""

    server: Prometheus
    plan: ModelPlan
    select: str | None = None
    clock: Callable[[], float] = time.time
    _counting: dict[Target, GatewayCounting] = field(default_factory=dict)

    def see(self) -> Seen:
        """Return what came since the look before, by the times of the samples themselves."""
        try:
            latest = self.server.latest(tuple(NAMES), LABELS, BACK_S, self.select)
        except MelangeError as error:
            return self._fault("unreachable", str(error).splitlines()[0])
        of_plan = {
            target: samples
            for target, samples in latest.samples.items()
            if any(labels.get("plan") == self.plan.name for _, labels, _ in samples)
        }
        if not latest.samples:
            return self._fault(
                "missing", f"{self.server.shown}: has no figures of a gateway within {BACK_S:g} s"
            )
        if not of_plan:
            return self._fault(
                "missing",
                f"{self.server.shown}: has figures of gateways, none of the plan '{self.plan.name}'",
            )
        gone = self._counting.keys() - of_plan.keys()
        looks = [self._seen(target, latest, of_plan) for target in sorted(of_plan)]
        looks += [
            self._counting[target].missed("missing", "is no longer scraped", latest.now_s)
            for target in sorted(gone)
        ]
        return added(looks, self.clock())

    def _seen(
        self, target: Target, latest: Latest, samples: Mapping[Target, Sequence[Sample]]
    ) -> Seen:
        counting = self._counting.get(target)
        if counting is None:
            where = dict(target).get("instance", "a gateway")
            counting = GatewayCounting(
                plan=self.plan, name=f"{where[:80]} as {self.server.shown} has it"
            )
            self._counting[target] = counting
        at_s = latest.times[target]
        if latest.now_s - at_s > OLD_S:
            message = f"was last scraped {latest.now_s - at_s:.0f} s ago"
            return counting.missed("frozen", message, at_s)
        shorts = [(NAMES[name], labels, value) for name, labels, value in samples[target]]
        return counting.seen(shorts, at_s, None)

    def _fault(self, code: FaultCode, message: str) -> Seen:
        return Seen(time=self.clock(), faults=(Fault(code=code, message=message),))
