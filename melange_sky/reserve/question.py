"""What is asked of the reservation search: demand over time, what may be bought, and at what odds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.reserve.serving import Served

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase:
    """Something that is bought in whole units before the demand is known, and paid whether used or not.

    `draws` says, per option (its index), how many units one running instance takes up. A reserved instance
    is one unit that one instance of its option fills: {option: 1}. A spend commitment is sold in steps of
    some USD per hour: {option: rate of a running instance ÷ step} for every option that it discounts; what
    runs beyond it is billed on demand. `usd` is what one unit costs over the demand's whole span, upfront
    part and all, `upfront_usd` what of that is paid at once. At most `most` are bought. A unit counts in the
    periods where `active`, (periods), is true: None for all.
    """

    name: str
    usd: float
    draws: Mapping[int, float]
    most: int
    upfront_usd: float = 0.0
    active: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way in which demand and prices may turn out.

    `rate_rps`, (periods), is what is asked for; `rents`, (price rows × options), USD per instance-hour on
    demand; `price`, (periods), which row holds. Weights of all scenarios need not add up to 1.
    """

    name: str
    rate_rps: Floats
    rents: Floats
    price: NDArray[np.intp]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is made least over the scenarios.

    "expected": the mean cost by weight. "regret": the greatest excess over the scenario's own best cost.
    "cvar": the mean cost of the dearest scenarios that hold 1 − `quantile` of the weight.
    """

    kind: Literal["expected", "regret", "cvar"] = "expected"
    quantile: float = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The whole question. Arrays over options have one place per name in `options`.

    `mixes` are the fleets that serve each mix of sizes, `mix`, (periods), which of them holds; a period lasts
    `hours_each`. The first scenario is the base case, whose fleets are told. `owned`, (periods × options), are
    units that are paid already, and `shared` those that options of several models may fill: their `most` are there
    whether used or not, in the periods in which they are active, at no cost. Instances are billed `startup_hours` before they serve, and run for at least
    `min_run_hours`. A purchase is proven to `within` of its cost, where time suffices.
    """

    options: tuple[str, ...]
    mixes: Sequence[Served]
    mix: NDArray[np.intp]
    hours_each: float
    scenarios: tuple[Scenario, ...]
    purchases: tuple[Purchase, ...] = ()
    owned: Floats | None = None
    shared: tuple[Purchase, ...] = ()
    objective: Objective = field(default_factory=Objective)
    startup_hours: float = 0.0
    min_run_hours: float = 0.0
    within: float = 0.0
    budget_upfront_usd: float = math.inf

    @property
    def periods(self) -> int:
        """How many periods there are."""
        return len(self.mix)

    def active(self, purchase: Purchase) -> NDArray[np.bool_]:
        """Return in which periods a unit counts, (periods)."""
        return np.ones(self.periods, dtype=bool) if purchase.active is None else purchase.active

    def owned_units(self) -> Floats:
        """Return what is paid already, (periods × options)."""
        return np.zeros((self.periods, len(self.options))) if self.owned is None else self.owned
