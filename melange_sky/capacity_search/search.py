"""Bracket the highest rate that meets the SLO, then bisect; confirm both bounds with long probes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from melange_sky.capacity_search.probe_verdict import (
    Probe,
    ProbeVerdict,
    SearchOptions,
    crossing_rps,
    judge,
)

if TYPE_CHECKING:
    from melange_sky.slo import SLO, RequestLog


_IDLE_IN_FLIGHT = 0.2
_IDLE_REQUESTS = 8


class ProbeAborted(Exception):  # noqa: N818 - an event of the search, not an error of the user
    """Raised by a target whose probe is void, such as when the load client itself was late."""


class Target(Protocol):
    """Something that can be put under load."""

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        """Send `requests` requests as an open-loop Poisson stream and return what became of them.

        Records lie in order of arrival. Real targets run their own event loop inside. May raise
        `ProbeAborted`; any other exception ends the search.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The highest rate found, None where none passes; `reason` says why the search ended.

    `low_rps` and `high_rps` bound it by resolved probes alone; `resolved` tells that these lie
    within the tolerance. `knee_rps` is the highest rate seen served, over all probes.
    """

    max_rate_rps: float | None
    reason: str
    resolved: bool
    low_rps: float | None = None
    high_rps: float | None = None
    knee_rps: float | None = None
    probes: tuple[Probe, ...] = ()


def find_max_rate(target: Target, slo: SLO, options: SearchOptions) -> SearchResult:
    """Return the highest Poisson rate at which `target` meets `slo`; see the module's rules."""
    search = _Search(target=target, slo=slo, options=options)
    reason = search.run()
    return search.result(reason)


@dataclass(slots=True, kw_only=True)
class _Search:
    """State of one search. `low` and `high` are working bounds, leaning probes included."""

    target: Target
    slo: SLO
    options: SearchOptions
    low: float | None = None
    high: float | None = None
    probes: list[Probe] = field(default_factory=list)
    outcomes: dict[float, bool] = field(default_factory=dict)
    sizes: dict[float, int] = field(default_factory=dict)
    idle_tried: bool = False

    def run(self) -> str:
        """Probe until the search ends; return why it did."""
        rate = self._clamp(self.options.start_rps or self.options.ceiling_rps)
        while True:
            probe = self._measure(rate)
            if probe.verdict is ProbeVerdict.ABORTED:
                return f"probes at {rate:.4g} req/s were void: {probe.reason}"
            passed = probe.verdict is ProbeVerdict.PASS or (
                probe.verdict is ProbeVerdict.UNRESOLVED
                and probe.leans_to_pass(self.slo, self.options)
            )
            self._narrow(rate, passed)
            ended = self._ended(probe, passed) or self._hopeless(probe)
            if ended:
                return ended
            rate = self._next_rate(probe)

    def _hopeless(self, probe: Probe) -> str | None:
        """Once two rates failed, see by a few lone requests whether any can pass."""
        options, answer_times_s = (
            self.options,
            [p.median_e2e_s for p in self.probes if p.median_e2e_s],
        )
        saturated = probe.served_rps is not None and probe.served_rps < 0.5 * probe.rate_rps
        if (
            self.idle_tried
            or self.low is not None
            or saturated
            or not answer_times_s
            or len(self.outcomes) < 2
        ):
            return None
        self.idle_tried = True
        rate = self._clamp(_IDLE_IN_FLIGHT / min(answer_times_s))
        if self.high is not None and rate >= self.high:
            return None
        try:
            log = self.target.probe(rate, _IDLE_REQUESTS, options.seed + len(self.probes))
        except ProbeAborted as void:
            idle = Probe(
                rate_rps=rate,
                requests=_IDLE_REQUESTS,
                seed=options.seed + len(self.probes),
                verdict=ProbeVerdict.ABORTED,
                reason=str(void),
            )
        else:
            idle = judge(
                log, self.slo, options, rate_rps=rate, seed=options.seed + len(self.probes)
            )
        self.probes.append(idle)
        if idle.verdict is not ProbeVerdict.FAIL or idle.attainment != 0.0:
            return None
        self.high = rate
        return f"even {rate:.4g} req/s fails: {idle.reason}"

    def _narrow(self, rate: float, passed: bool) -> None:
        """Take in what a rate did; a confirmation that contradicts a bound opens that side again."""
        self.outcomes[rate] = passed
        if passed:
            self.low = rate
            if self.high is not None and self.high <= rate:
                above = [r for r, good in self.outcomes.items() if r > rate and not good]
                self.high = min(above, default=None)
        else:
            self.high = rate
            if self.low is not None and self.low >= rate:
                below = [r for r, good in self.outcomes.items() if r < rate and good]
                self.low = max(below, default=None)

    def _ended(self, probe: Probe, passed: bool) -> str | None:
        options = self.options
        if passed and probe.rate_rps >= options.ceiling_rps:
            return f"the ceiling of {options.ceiling_rps:g} req/s still passes"
        if self._closed() and not self._unconfirmed():
            return "bounds within tolerance"
        if not passed and probe.rate_rps <= self._floor(probe):
            return f"even {probe.rate_rps:.4g} req/s fails: {probe.reason}"
        if len(self.probes) >= options.max_probes:
            return f"stopped after {len(self.probes)} probes"
        return None

    def _closed(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return self.high / self.low <= 1 + self.options.tolerance

    def _unconfirmed(self) -> list[float]:
        """Return the bounds that no long enough probe has stood for, the lower one first."""
        wanted = min(self.options.confirm_requests, self.options.max_requests)
        return [
            rate
            for rate in (self.low, self.high)
            if rate is not None and self.sizes.get(rate, 0) < wanted
        ]

    def _floor(self, probe: Probe) -> float:
        """Return the lowest rate worth trying, where almost no request meets another in flight."""
        if self.options.floor_rps is not None:
            return self.options.floor_rps
        answer_times_s = [p.median_e2e_s for p in [*self.probes, probe] if p.median_e2e_s]
        return (
            min(0.05, 1 - self.slo.attainment + 1e-3) / min(answer_times_s)
            if answer_times_s
            else math.inf
        )

    def _clamp(self, rate: float) -> float:
        floor = self.options.floor_rps or 0.0
        return min(max(rate, floor), self.options.ceiling_rps)

    def _next_rate(self, probe: Probe) -> float:
        options = self.options
        if self._closed():
            return self._unconfirmed()[0]
        if self.low is not None and self.high is not None:
            return math.sqrt(self.low * self.high)
        if self.low is not None:
            return self._clamp(self.low * options.growth)
        assert self.high is not None
        guess = self.high / options.growth
        if probe.served_rps and probe.served_rps < guess:
            guess = 0.9 * probe.served_rps  # a saturated probe shows what can be served at all
        return self._clamp(max(guess, self._floor(probe)))

    def _measure(self, rate: float) -> Probe:
        """Probe one rate, with ever more requests until it resolves or the cap is reached."""
        options = self.options
        requests, aborts = self._first_size(rate), 0
        while True:
            seed = options.seed + len(self.probes)
            try:
                log = self.target.probe(rate, requests, seed)
            except ProbeAborted as void:
                aborts += 1
                probe = Probe(
                    rate_rps=rate,
                    requests=requests,
                    seed=seed,
                    verdict=ProbeVerdict.ABORTED,
                    reason=str(void),
                )
            else:
                probe = judge(log, self.slo, options, rate_rps=rate, seed=seed)
            self.probes.append(probe)
            self.sizes[rate] = requests
            spent = len(self.probes) >= options.max_probes
            if probe.verdict is ProbeVerdict.ABORTED:
                if aborts > options.max_aborts or spent:
                    return probe
                continue
            if probe.verdict is not ProbeVerdict.UNRESOLVED or spent:
                return probe
            larger = self._larger(probe, requests)
            if larger <= requests:
                return probe
            requests = larger

    def _first_size(self, rate: float) -> int:
        """Return enough requests for the turnovers that earlier probes lead one to expect."""
        options = self.options
        width = 1.0
        if self.low is not None and self.high is not None:
            width = math.log(self.high / self.low) / math.log(options.growth)
        least = options.min_requests / max(width, 1e-9)
        if self._closed():
            least = options.confirm_requests
        least = min(max(least, options.min_requests), options.confirm_requests)
        least = max(least, options.min_seconds * rate)
        near = [p.median_e2e_s for p in self.probes if p.median_e2e_s and p.rate_rps <= rate]
        wanted = 1.2 * options.turnovers * max(near) * rate if near else 0.0
        return int(min(max(least, wanted), options.max_requests))

    def _larger(self, probe: Probe, requests: int) -> int:
        """Return the next size: what the turnovers need, else threefold up to a confirmation's."""
        options = self.options
        needed = 1.2 * options.turnovers * (probe.median_e2e_s or 0.0) * probe.rate_rps
        wanted = min(requests * 3.0, options.confirm_requests)
        if needed > requests:
            wanted = max(requests * 2.0, needed)
        return int(min(wanted, options.max_requests))

    def _best_rate(self) -> float | None:
        """Return the lower bound, or the crossing between the bounds where that is asked for."""
        if not self.options.crossing or self.low is None or self.high is None:
            return self.low
        # The last probe of a rate had the most requests.
        last = {p.rate_rps: p for p in self.probes if p.verdict is not ProbeVerdict.ABORTED}
        return crossing_rps(last[self.low], last[self.high], self.slo)

    def result(self, reason: str) -> SearchResult:
        passes = [p.rate_rps for p in self.probes if p.verdict is ProbeVerdict.PASS]
        fails = [p.rate_rps for p in self.probes if p.verdict is ProbeVerdict.FAIL]
        served = [p.served_rps for p in self.probes if p.served_rps]
        low, high = max(passes, default=None), min(fails, default=None)
        if self.low is None and self.high is not None and not reason.startswith("even"):
            reason = f"no rate passed; {reason}"
        within = low is not None and high is not None and high / low <= 1 + self.options.tolerance
        return SearchResult(
            max_rate_rps=self._best_rate(),
            reason=reason,
            low_rps=low,
            high_rps=high,
            resolved=within or (low is None and reason.startswith("even")),
            knee_rps=max(served, default=None),
            probes=tuple(self.probes),
        )
