"""One look at a time: what was seen becomes a forecast, a decision and a line in the journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from melange_sky.errors import MelangeError
from melange_sky.planner.watching.entries import entry_of, state_of
from melange_sky.watching.decide import Look, Rules, State, decide
from melange_sky.watching.decision import REASONS, Decision
from melange_sky.watching.forecast import Forecaster
from melange_sky.watching.mix import MixLog
from melange_sky.watching.seen import Fault, Seen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.plans import Plan
    from melange_sky.watching.fleets import Fleets
    from melange_sky.watching.provisioning import StartUps

F = TypeVar("F", bound="Fleets")

LEAP_LOOKS = 10
LEAP_S = 900.0
"""Time that leaps by more than so many looks, and by more than so long, is not believed."""


GROW_QUANTILE, SHRINK_QUANTILE = 0.6, 0.9
"""A fleet grows for what is exceeded in two of five cases, and shrinks to what is in one of ten: what lies between
keeps chance from growing and shrinking it in turn."""


class Source(Protocol):
    """Where looks come from: `observe` mode needs nothing else."""

    def see(self) -> Seen:
        """Return one look, at the present time; what fails is a fault in it, never an exception."""


Meanwhile = Callable[[], "Plan | None"]
"""Called again and again while a change waits: the plan of a larger fleet where one is needed by now, else None."""


class Actor(Protocol):
    """What carries a change out."""

    def resume(self, tell: Callable[[str], None]) -> bool:
        """End a change that an earlier run left under way; return whether there was one. Raises as `act` does."""

    def act(self, target: Plan, tell: Callable[[str], None], meanwhile: Meanwhile) -> None:
        """Make the fleet what a plan says, grown first; resumable anywhere. A plan of `meanwhile` takes its place.

        Raises MelangeError where it cannot, `NotHadError` naming the options that could not be had.
        """


class NotHadError(MelangeError):
    """Replicas of some options could not be had; the others stand as they did."""

    def __init__(self, message: str, options: frozenset[str]) -> None:
        """Say why, and of which options."""
        super().__init__(message)
        self.options = options


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One look: what was seen, what was decided, and the journal's line without its hash."""

    seen: Seen
    decision: Decision
    entry: dict[str, Any]


class Watcher(Generic[F]):
    """The looks of one fleet in their order: what was learned, and what is remembered.

    `fleets` are those for the sizes in force: the plan's, until others are seen.
    """

    def __init__(self, fleets: F, start_ups: StartUps, rules: Rules, every_s: float) -> None:
        """Begin without a past."""
        self.fleets, self.rules, self.every_s = fleets, rules, every_s
        self.state = State()
        self.startup_s = tuple(start_ups.of(name).seconds for name in fleets.options)
        usual = start_ups.longest_s(fleets.options)
        self._soon = Forecaster(usual + every_s, GROW_QUANTILE)
        self._later = Forecaster(2 * usual + every_s, SHRINK_QUANTILE)
        self._last_s: float | None = None
        self._mix = MixLog(fleets.shares, fleets.loads())
        self._is_unserved = False

    def resume(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Learn from the lines of a journal, and go on where the last one stood."""
        planned = self._mix.now
        for line in lines:
            observed = line.get("observed")
            if not isinstance(observed, dict):  # a line about a change
                self.state = state_of(line.get("state"), self.fleets.options)
                continue
            time = datetime.fromisoformat(str(line["time"]).replace("Z", "+00:00")).timestamp()
            rate = observed.get("rate_rps")
            if isinstance(rate, int | float) and not observed.get("faults"):
                self._learn(time, float(rate))
                self._mix.add(
                    time, _rows(observed.get("bucket_rates_rps")), observed.get("live") or ()
                )
            self._last_s = time
            self.state = state_of(line.get("state"), self.fleets.options)
        if self._mix.now is not planned:
            self._reckon()

    def tick(self, seen: Seen, *, changing: bool = False) -> Tick:
        """Return what is decided at a look; while a change is being carried out (`changing`) nothing shrinks."""
        leap = self._leap(seen.time)
        if leap is not None:
            seen = replace(seen, faults=(leap, *seen.faults))
        self._last_s = seen.time
        if seen.rate_rps is not None and not seen.faults:
            self._learn(seen.time, seen.rate_rps)
        soon, later = self._soon.forecast(), self._later.forecast()
        if not seen.is_sound or soon is None or later is None:
            decision = _kept(seen)
            self.state = replace(self.state, time=seen.time, agreed=0)
        else:
            look = Look(seen=seen, soon=soon, later=later, changing=changing)
            decision = self._of_mix(seen) or self._decided(look)
        entry = entry_of(seen, (soon, later), decision, self.state, self.fleets.options)
        return Tick(seen=seen, decision=decision, entry=entry)

    def _decided(self, look: Look) -> Decision:
        if self._is_unserved or self._mix.last > 0:  # its rate may promise too much
            until = look.seen.time + self.rules.calm_s
            self.state = replace(self.state, calm_until_s=until)
        decision, self.state = decide(look, self.state, self.fleets, self.startup_s, self.rules)
        return decision

    def _of_mix(self, seen: Seen) -> Decision | None:
        """Return what is to be said where the sizes of requests have moved: from now on fleets are those for them."""
        live = seen.live or {}
        if not self._mix.add(seen.time, seen.bucket_rates, live):
            return None
        fleet = tuple(live.get(name, 0) for name in self.fleets.options)
        before = self.fleets.rate(fleet)
        why = self._reckon()
        told = (
            f"no fleet is known for what is seen, so nothing shrinks ({why})"
            if why
            else f"what runs serves {self.fleets.rate(fleet):.2f} req/s of what is seen, not {before:.2f}"
        )
        self.state = replace(self.state, time=seen.time, agreed=0)
        return Decision(verb="keep", reason="mix", message=f"{REASONS['mix']}: {told}")

    def _reckon(self) -> str | None:
        """Take the fleets for the mix that is in force; return why there are none, None where there are."""
        try:
            self.fleets = self.fleets.of_mix(self._mix.now)
        except MelangeError as error:
            self._is_unserved = True
            return str(error)
        self._is_unserved = False
        return None

    def _learn(self, time: float, rate_rps: float) -> None:
        self._soon.add(time, rate_rps)
        self._later.add(time, rate_rps)

    def _leap(self, time: float) -> Fault | None:
        if self._last_s is None:
            return None
        passed = time - self._last_s
        if passed <= 0:
            what = f"the clock went back by {-passed:.0f} s" if passed else "the clock stands still"
            return Fault(code="clock", message=f"{what}; nothing is changed at this look")
        if passed > max(LEAP_LOOKS * self.every_s, LEAP_S):
            return Fault(
                code="clock",
                message=f"{passed:.0f} s since the look before: a clock that leapt, or a pause; nothing is changed at this look",
            )
        return None


def _rows(rates: object) -> NDArray[np.float64] | None:
    """Return rates by size as a journal has them, None where it has none."""
    try:
        return None if rates is None else np.array(rates, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _kept(seen: Seen) -> Decision:
    """Return that nothing is changed, since what was seen cannot be believed or is too little."""
    for fault in seen.faults:
        if fault.code == "taken":
            return Decision(verb="keep", reason="taken", message=fault.message)
    code = "signal" if seen.faults else "unknown"
    if seen.faults:
        what = "; ".join(fault.message for fault in seen.faults)
    elif seen.rate_rps is None:
        what = "the rate is not known, as at a first look"
    else:
        what = "the live replicas are not known"
    return Decision(verb="keep", reason=code, message=f"{REASONS[code]}: {what}")
