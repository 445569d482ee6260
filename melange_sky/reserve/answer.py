"""What the reservation search answers: what to buy, the fleets beside it, and what all that costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bought:
    """One purchase of the question, in its order; `units` may be 0.

    `break_even_fraction` of the hours in which a unit counts it must be used to cost what the same would on
    demand: below 1 it can pay. `used_fraction` is how far the bought units are used, over the scenarios by
    weight, None without units and where it was not worked out in time. `usd` and `upfront_usd` are of all units.
    """

    name: str
    units: int
    usd: float
    upfront_usd: float
    break_even_fraction: float
    used_fraction: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioCost:
    """USD over the demand's span in one scenario.

    `cost_usd` with what is advised, `nothing_usd` with nothing bought, `best_usd` with the best purchase had
    this scenario been known; regrets are what the first two cost more than the last.
    """

    name: str
    weight: float
    cost_usd: float
    nothing_usd: float
    best_usd: float

    @property
    def regret_usd(self) -> float:
        """What the advice costs beyond the best for this scenario."""
        return max(0.0, self.cost_usd - self.best_usd)

    @property
    def regret_of_nothing_usd(self) -> float:
        """What buying nothing costs beyond the best for this scenario."""
        return max(0.0, self.nothing_usd - self.best_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """USD over the demand's span in the base case.

    `all_on_demand_usd`: nothing bought. `commit_peak_usd`: the fleet of the highest rates runs all the time,
    each instance at its cheapest. `best_single_usd`: one option alone (`best_single`, an index) with its best
    purchase, None where no option serves all alone. `bound_usd`: the cheapest fleet in every period, each used
    instance-hour at its cheapest rate, idle free, instant start. `free_switch_usd`: the advice without start-up
    and minimum run times. None, too, is what was not worked out in time.
    """

    chosen_usd: float
    all_on_demand_usd: float
    commit_peak_usd: float | None
    best_single_usd: float | None
    best_single: int | None
    bound_usd: float | None
    free_switch_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The advice.

    `fleets` is (periods × options): all that runs in the base case, committed and rented; `covered` what of
    that owned and bought units pay for (fractions where a spend commitment runs out within an instance).
    `objective_usd` is what was made least, `bound_objective_usd` proven below it, `gap` = 1 − bound ÷ objective.
    `stochastic_value_usd`: what planning for all scenarios saves against planning for the weighted mean of
    them; `foresight_value_usd`: what knowing the scenario beforehand would save. `flip_fraction`: the fall of
    all on-demand prices at which buying nothing would cost no more, None where nothing is bought. `late` names what
    was not worked out in time and is None.
    """

    bought: tuple[Bought, ...]
    fleets: Floats
    covered: Floats
    totals: Totals
    scenarios: tuple[ScenarioCost, ...]
    objective_usd: float
    bound_objective_usd: float
    gap: float
    stochastic_value_usd: float | None
    foresight_value_usd: float
    flip_fraction: float | None
    late: tuple[str, ...] = ()
