"""Which fleet serves when: the steps of a demand, repeated by the week in UTC. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

DEFAULT_STARTUP_S = 900.0
"""To provision a machine, install the engine and load weights takes 5 to 15 minutes as a rule."""
TICK_S = 300.0
"""How often a schedule is looked at: nothing may be later than that."""
WEEK_S = 7 * 86_400.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """The fleet of every step of a demand that begins at `start` (aware), and how long it is ahead of it.

    `fleets` are numbers, one per step of `step_s` seconds. Outside the demand its first or last `cycle`
    steps repeat: a week, or a day where the demand is one. `counts` are each fleet's replicas by service.
    What a fleet needs runs `ahead_s` before its first step.
    """

    start: datetime
    step_s: float
    fleets: Sequence[int]
    cycle: int
    counts: Sequence[Mapping[str, int]]
    ahead_s: float = 0.0

    def fleet_at(self, moment: datetime) -> int:
        """Return the number of the fleet that serves at a moment."""
        return self._of_step(self._step(moment))

    def fleets_from(self, moment: datetime) -> tuple[int, ...]:
        """Return the fleets that serve from a moment until as far ahead as replicas start, in order, each once."""
        last = self._step(moment + timedelta(seconds=self.ahead_s))
        return tuple(dict.fromkeys(self._of_step(k) for k in range(self._step(moment), last + 1)))

    def running_at(self, moment: datetime) -> dict[str, int]:
        """Return the replicas that run at a moment: those of its fleet, and what the next ones need more.

        What grows is there early and what shrinks goes late: no moment has less than it needs.
        """
        running: dict[str, int] = {}
        for fleet in self.fleets_from(moment):
            for service, count in self.counts[fleet].items():
                running[service] = max(count, running.get(service, 0))
        return dict(sorted(running.items()))

    def changes(self, moment: datetime) -> Iterator[tuple[datetime, dict[str, int]]]:
        """Yield when something changes within a cycle from a moment on, with all that runs from then."""
        ahead = timedelta(seconds=self.ahead_s)
        until = moment + timedelta(seconds=self.cycle * self.step_s)
        begins = [self._begin(k) for k in range(self._step(moment), self._step(until + ahead) + 1)]
        before = self.running_at(moment)
        for at in sorted({*begins, *(begin - ahead for begin in begins)}):
            if moment < at <= until:
                running = self.running_at(at)
                if running != before:
                    yield at, running
                before = running

    def _step(self, moment: datetime) -> int:
        """Return the step in which a moment lies, counted from the demand's start."""
        return int((moment - self.start).total_seconds() // self.step_s)

    def _begin(self, step: int) -> datetime:
        return self.start + timedelta(seconds=step * self.step_s)

    def _of_step(self, step: int) -> int:
        length = len(self.fleets)
        if step < 0:
            return self.fleets[step % self.cycle]
        if step < length:
            return self.fleets[step]
        return self.fleets[length - self.cycle + (step - length) % self.cycle]


def cycle_of(steps: int, step_s: float) -> int | None:
    """Return how many steps of a demand repeat: those of a week, or of a day where it is one; None else.

    >>> cycle_of(168, 3600), cycle_of(24, 3600), cycle_of(400, 3600), cycle_of(100, 3600)
    (168, 24, 168, None)
    """
    span_s = steps * step_s
    for cycle_s in (WEEK_S, DAY_S):
        if span_s == DAY_S or (cycle_s == WEEK_S and span_s >= WEEK_S):
            cycle = min(cycle_s, span_s) / step_s
            return int(cycle) if cycle.is_integer() else None
    return None


def startup_of(given_s: float | None, known_s: float, where: str) -> tuple[float, str]:
    """Return how long a replica takes until it serves, and where that is from.

    `given_s` is the flag's, `known_s` what stands in `where`, 0 where nothing does.
    """
    if given_s is not None:
        return given_s, "--startup-s"
    if known_s > 0:
        return known_s, where
    return DEFAULT_STARTUP_S, "assumed: --startup-s says how long a replica takes until it serves"
