"""The fleets that are weighed at a look, each with what it and the change to it cost over the time ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from melange_sky.watching.decision import Candidate
from melange_sky.watching.fleets import Counts, Fleets, started

MOST_PART = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """What fleets are weighed against: the one that is held (live and starting), and how far savings count."""

    fleets: Fleets
    held: Counts
    startup_s: tuple[float, ...]
    ahead_s: float
    without: frozenset[str]

    @property
    def held_rate(self) -> float:
        """The highest rate that the held fleet serves once all of it is ready."""
        return self.fleets.rate(self.held)

    def is_starting(self, now: float, started_s: float | None) -> bool:
        """Return whether what started last cannot serve yet."""
        return started_s is not None and now - started_s < max(self.startup_s, default=0.0)

    def wait_s(self, now: float, started_s: float | None) -> float:
        """Return after how many seconds more can serve: what starts already, else what would."""
        longest_s = max(self.startup_s, default=0.0)
        if started_s is None or not self.is_starting(now, started_s):
            return longest_s
        return longest_s - (now - started_s)

    def cheapest(self, need_rps: float) -> Counts | None:
        """Return the cheapest fleet for a need among those that keep what is paid for anyway."""
        kept = self.fleets.kept(self.held)
        if any(kept):
            return self.fleets.grown(kept, need_rps, self.without)
        return self.fleets.cheapest(need_rps, self.without)

    def named(self, fleet: Counts) -> Mapping[str, int]:
        """Return the replicas by option, those of which there are none left out."""
        return {name: n for name, n in zip(self.fleets.options, fleet, strict=True) if n}

    def counts(self, candidate: Candidate) -> Counts:
        """Return a candidate's replicas in the order of the options."""
        return tuple(candidate.counts.get(name, 0) for name in self.fleets.options)

    def candidate(self, kind: str, fleet: Counts) -> Candidate:
        """Return a fleet with its costs.

        What starts is paid before it serves, and what it replaces runs on as long; what is paid for anyway costs
        nothing.
        """
        fleets = self.fleets
        held, billed = (_less(each, fleets.kept(each)) for each in (self.held, fleet))
        new, old = started(held, billed), started(billed, held)
        switch = sum(
            n * price * seconds / 3600
            for n, price, seconds in zip(new, fleets.prices, self.startup_s, strict=True)
        )
        wait_s = max((s for n, s in zip(new, self.startup_s, strict=True) if n), default=0.0)
        switch += wait_s / 3600 * sum(n * p for n, p in zip(old, fleets.prices, strict=True))
        cost = fleets.cost(fleet)
        return Candidate(
            kind=kind,
            counts=self.named(fleet),
            usd_per_hour=cost,
            rate_rps=fleets.rate(fleet),
            rate_origin=fleets.origin(fleet),
            switch_usd=switch,
            usd=cost * self.ahead_s / 3600 + switch,
        )


def _less(fleet: Counts, part: Counts) -> Counts:
    return tuple(n - out for n, out in zip(fleet, part, strict=True))


def of_growth(weigh: Weighing, need_rps: float, most_usd: float | None) -> tuple[Candidate, ...]:
    """Return the fleets that serve a need beyond the held one's, those within the guard's limit of USD if any is."""
    ways = (
        ("grown", weigh.fleets.grown(weigh.held, need_rps, weigh.without)),
        ("cheapest", weigh.cheapest(need_rps)),
    )
    found = tuple(weigh.candidate(kind, fleet) for kind, fleet in ways if fleet is not None)
    allowed = tuple(c for c in found if most_usd is None or c.usd_per_hour <= most_usd)
    return allowed or found


def of_saving(weigh: Weighing, need_rps: float) -> tuple[Candidate, ...]:
    """Return the held fleet first, and those that serve the need for less."""
    fleets = weigh.fleets
    ways = [("live", weigh.held), ("shrunk", fleets.shrunk(weigh.held, need_rps))]
    ways.append(("cheapest", weigh.cheapest(need_rps)))
    seen: set[Counts] = set()
    found = []
    for kind, fleet in ways:
        if fleet is not None and fleet not in seen:
            seen.add(fleet)
            found.append(weigh.candidate(kind, fleet))
    return tuple(found)


def best(found: tuple[Candidate, ...]) -> Candidate | None:
    """Return the cheapest over the time ahead; of equals the first."""
    return min(found, key=lambda c: c.usd + MOST_PART * len(c.counts), default=None)
