"""The highest rate at which a fleet holds its SLO in replay: its knee."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.optimizer import Deadline
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan

if TYPE_CHECKING:
    from melange_sky.plans import ModelPlan
    from melange_sky.replay.verdict import Verdict

STEP = 1.25
FINE = 1.03
"""Ratio of rates below which none between them is replayed."""

LARGEST_SCALE = 8.0
SMALLEST_SCALE = 1 / 16
ROUGHLY = 0.05
"""Half width of the attainment's interval that is enough; a rate holds where its lower end does."""

MANY_RPS = 60.0
MANY_REQUESTS = 20_000
SHORTEST_S = 120.0
"""Above `MANY_RPS` a rate is replayed for so many requests, and so long at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """The highest request rate that held in replay, and the lowest that did not.

    `holds_rps` is None where not even a sixteenth of the planned rate held, `misses_rps` where eight
    times of it did; so too where time ran out first. `breaks` is the limit that most requests missed
    at `misses_rps`, "TTFT" or "TPOT".
    """

    holds_rps: float | None
    misses_rps: float | None
    breaks: str | None


def find_knee(plan: ModelPlan, seconds: float, guess: float = 1.0) -> Knee | None:
    """Return the knee of one model's fleet at a steady rate of the plan's sizes.

    The search begins at `guess` times the planned rate and ends within 3 % of the knee, or `seconds`
    after the first replay, which may have to wait for the simulator to be compiled. A rate holds where the lower end of its attainment's interval does. Arrivals are as bursty as those that
    were planned for. None where the plan says nothing of its engines, so that it cannot be replayed.
    """
    search = _Search(plan)
    try:
        search.holds(guess)
        deadline = Deadline.after(seconds)
        low, high = search.bracket(guess, deadline)
        while low and high and high / low > FINE and not deadline.passed:
            middle = (low * high) ** 0.5
            low, high = (middle, high) if search.holds(middle) else (low, middle)
    except InputError:
        return None
    rate_rps = plan.workload.rate_rps
    return Knee(
        holds_rps=low and low * rate_rps,
        misses_rps=high and high * rate_rps,
        breaks=None if high is None else _most_missed(search.verdicts[high]),
    )


class _Search:
    """The verdicts on one fleet by the factor on its rate."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan = plan
        self.verdicts: dict[float, Verdict] = {}

    def holds(self, scale: float) -> bool:
        """Return whether the fleet surely holds at so many times the planned rate; each is replayed once."""
        if scale not in self.verdicts:
            self.verdicts[scale] = self._replayed(scale)
        return self.verdicts[scale].interval[0] >= self.verdicts[scale].target

    def _replayed(self, scale: float) -> Verdict:
        rate_rps = self.plan.workload.rate_rps * scale
        duration_s = max(SHORTEST_S, MANY_REQUESTS / rate_rps) if rate_rps > MANY_RPS else None
        profile = self.plan.rate_profile
        request = SimulationRequest(
            rate_scale=scale,
            duration_s=duration_s,
            ci=ROUGHLY,
            until_sure=True,
            burstiness=1.0 if profile is None else profile.burstiness,
        )
        return simulate_plan(self.plan, request).verdict

    def bracket(self, scale: float, deadline: Deadline) -> tuple[float | None, float | None]:
        """Return a scale near the given one that holds and the next that misses, None if not found."""
        if self.holds(scale):
            while not deadline.passed and scale < LARGEST_SCALE:
                if not self.holds(scale * STEP):
                    return scale, scale * STEP
                scale *= STEP
            return scale, None
        while not deadline.passed and scale > SMALLEST_SCALE:
            if self.holds(scale / STEP):
                return scale / STEP, scale
            scale /= STEP
        return None, scale


def _most_missed(verdict: Verdict) -> str:
    """Return the limit that more requests missed, over all options."""
    ttft = sum(o.requests * (o.ttft_missed or 0.0) for o in verdict.options)
    tpot = sum(o.requests * (o.tpot_missed or 0.0) for o in verdict.options)
    return "TTFT" if ttft >= tpot else "TPOT"
