"""What the gateways of a fleet count: the rate, how much of it is within the SLO, how full each option is.

Read from their `/metrics` at most once a minute, so that a figure is of a minute at least, as the mean since the look
before. What is not known is None, and `told` says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange_sky import settings
from melange_sky.planner.gateway_keys import CLIENT_KEYS
from melange_sky.planner.watching.sources.fetching import Page, fetch, metrics_url
from melange_sky.planner.watching.sources.gateway import GatewayCounting, Sample, samples_of
from melange_sky.planner.watching.sources.together import added

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from melange_sky.plans import Allocation, ModelPlan
    from melange_sky.skyplugin.plan_folders import FoundPlan
    from melange_sky.watching.seen import Seen

OBSERVE_S = 60.0
"""A gateway is asked at most so often."""

FIRST_LOOK = "the first look was just now: figures come with the next, in a minute"
_OF_ALL_OPTIONS = frozenset({"sent", "workers"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionSeen:
    """What came to an option: requests per second, and the load in the sense of the plan's; None for unknown."""

    rate_rps: float | None
    load_fraction: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSeen:
    """What the gateways of one model saw in the `over_s` seconds until `time` (since 1970); None for unknown.

    `attainment` is of streamed answers, by the plan's limits. `told` says in a sentence each what is missing and why.
    """

    time: float
    over_s: float | None
    rate_rps: float | None
    refused_rps: float | None
    attainment: float | None
    queue: float | None
    options: Mapping[str, OptionSeen]
    gateways: tuple[str, ...]
    told: tuple[str, ...]


Observed = Mapping[tuple[str, str], ModelSeen]
"""By the fleet's id and the model's name in its plan."""


@dataclass(slots=True, kw_only=True)
class _Counted:
    """Readings of a model's gateways, of all options and of each; anew where its plan is another."""

    plan: ModelPlan
    whole: dict[str, GatewayCounting]
    options: dict[str, dict[str, GatewayCounting]]
    looked_s: float | None = None


@dataclass(slots=True, kw_only=True)
class Gateways:
    """The gateways of fleets, by the id or the name of a fleet: asked when `look` is called.

    `found` gives the plans that serve now. `get` fetches a page, `key` is a client's, never shown.
    """

    urls: Mapping[str, Sequence[str]]
    found: Callable[[], Sequence[FoundPlan]]
    get: Callable[[str, str | None], Page] = fetch
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _counted: dict[tuple[str, str], _Counted] = field(default_factory=dict)

    def look(self) -> Observed:
        """Return what came since the look before, for every model whose gateways are named."""
        plans = self.found()
        key = _client_key()
        seen = {}
        for one in plans:
            addresses = self._addresses(one)
            if not addresses:
                continue
            pages = {url: self.get(metrics_url(url, "gateways"), key) for url in addresses}
            for model in one.plan.models:
                place = (one.id, model.name)
                counted = self._counted.get(place)
                if counted is None or counted.plan is not model or set(counted.whole) != set(pages):
                    counted = self._counted[place] = _counted(model, tuple(pages))
                seen[place] = self._model(counted, pages)
        return seen

    def _addresses(self, one: FoundPlan) -> tuple[str, ...]:
        return tuple(self.urls.get(one.id) or self.urls.get(one.plan.name) or ())

    def _model(self, counted: _Counted, pages: Mapping[str, Page]) -> ModelSeen:
        now, steady = self.clock(), self.steady()
        samples = {url: None if p.text is None else samples_of(p.text) for url, p in pages.items()}

        def of(counting: Mapping[str, GatewayCounting], option: str | None) -> Seen:
            looks = []
            for url, one in counting.items():
                read = samples[url]
                if read is None:
                    looks.append(one.missed("unreachable", pages[url].why, now))
                else:
                    looks.append(one.seen(_of_option(read, option), now, steady))
            return added(looks, now)

        whole = of(counted.whole, None)
        parts = {name: of(one, name) for name, one in counted.options.items()}
        told = tuple(fault.message for fault in whole.faults)
        is_known = whole.rate_rps is not None
        over_s = steady - counted.looked_s if counted.looked_s is not None and is_known else None
        if not told:
            counted.looked_s = steady
        if not told and not is_known:
            told = (FIRST_LOOK,)
        return ModelSeen(
            time=now,
            over_s=over_s,
            rate_rps=whole.rate_rps,
            refused_rps=whole.refused_rps,
            attainment=whole.attainment,
            queue=whole.queue,
            options={
                a.candidate.option.name: _option_seen(
                    counted.plan, a, parts[a.candidate.option.name]
                )
                for a in counted.plan.allocations
            },
            gateways=tuple(pages),
            told=told,
        )


def _client_key() -> str | None:
    lines = (settings.secret(CLIENT_KEYS) or "").split()
    return lines[0] if lines else None


def _counted(model: ModelPlan, urls: Sequence[str]) -> _Counted:
    def fresh() -> dict[str, GatewayCounting]:
        return {url: GatewayCounting(plan=model, name=url) for url in urls}

    names = [a.candidate.option.name for a in model.allocations]
    return _Counted(plan=model, whole=fresh(), options={name: fresh() for name in names})


def _of_option(samples: Sequence[Sample], option: str | None) -> list[Sample]:
    """Return the figures of one option, and those that are of all; of None: all figures."""
    return [
        sample
        for sample in samples
        if option is None or sample[0] in _OF_ALL_OPTIONS or sample[1].get("option") == option
    ]


def _option_seen(model: ModelPlan, allocation: Allocation, seen: Seen) -> OptionSeen:
    name = allocation.candidate.option.name
    ready = (seen.live or {}).get(name, 0)
    planned = _work(allocation, _planned_rates(model, allocation))
    work = None if seen.bucket_rates is None else _work(allocation, seen.bucket_rates)
    load = None
    if work is not None and planned and ready:
        per_instance = planned / allocation.instances
        load = allocation.load_fraction * (work / ready) / per_instance
    return OptionSeen(rate_rps=seen.rate_rps, load_fraction=load)


def _planned_rates(model: ModelPlan, allocation: Allocation) -> list[list[float]]:
    return [
        [rate * share for rate, share in zip(rates, shares, strict=True)]
        for rates, shares in zip(model.workload.rates_rps, allocation.shares, strict=True)
    ]


def _work(allocation: Allocation, rates: NDArray[np.float64] | list[list[float]]) -> float | None:
    """Return how many instances' capacity so many requests take, None where one's is not known."""
    whole = 0.0
    for cells, row in zip(allocation.candidate.cells, rates, strict=True):
        for cell, rate in zip(cells, row, strict=True):
            if rate > 0:
                if cell.largest_rps is None:
                    return None
                whole += float(rate) / cell.largest_rps
    return whole


def observed_document(seen: ModelSeen, now_s: float) -> dict[str, Any]:
    """Return a model's figures for the page: see `melange-sky help plugin` for the fields."""
    return {
        "age_s": max(0.0, now_s - seen.time),
        "over_s": seen.over_s,
        "rate_rps": seen.rate_rps,
        "refused_rps": seen.refused_rps,
        "attainment": seen.attainment,
        "queue": seen.queue,
        "gateways": list(seen.gateways),
        "told": list(seen.told),
    }
