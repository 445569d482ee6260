"""How to reserve: the flags of `reserve` and `bound`, by their names, and what they mean."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from melange_sky.commitments import HOURS_PER_MONTH
from melange_sky.errors import InputError, clip
from melange_sky.optimizer import SolveOptions
from melange_sky.planner.figures import within
from melange_sky.planner.hooks import NO_HOOKS, Hooks
from melange_sky.planner.replayed_trace import replayed_trace
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery
from melange_sky.reserve.question import Objective
from melange_sky.spec.hourly import WEEKS_A_YEAR, HourlyDemand, read_demand
from melange_sky.spec.mixes import read_mixes
from melange_sky.spec.scenarios import AS_GIVEN, ScenarioChanges, read_scenarios

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from melange_sky.spec.histogram import Histogram
    from melange_sky.workload import Trace

_TERM = re.compile(r"([1-9][0-9]{0,2})(m|y)\Z")
BLOCK = "block"
ALL_TERMS = "all"
LONGEST_LISTED_HOURS = 12 * HOURS_PER_MONTH
"""Of list terms those of up to a year are weighed unless others are asked for."""

LARGEST_USD = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandSource:
    """Where the demand is read: a CSV or a trace, and how; `mix` are LABEL=FILE texts. See `reserve --help`."""

    demand: Path | None = None
    trace: Path | None = None
    columns: str | Mapping[str, str] | None = None
    timezone: str | None = None
    keep_failed: bool = False
    mix: Sequence[str] = ()
    growth: float | None = None

    def __post_init__(self) -> None:
        if (self.demand is None) == (self.trace is None):
            raise InputError("give one of --demand CSV and --trace FILE")
        if self.growth is not None:
            within("--growth", self.growth, -0.99, 100.0)
        if self.trace is not None and self.mix:
            raise InputError("--mix names the mixes of --demand; a trace tells its own")
        _ = self.read_as

    @property
    def read_as(self) -> Trace | None:
        """The trace as it is to be read."""
        return replayed_trace(
            self.trace, "--trace", self.columns, self.timezone, keep_failed=self.keep_failed
        )

    def read(self, weeks: int = WEEKS_A_YEAR) -> tuple[HourlyDemand, dict[str, Histogram]]:
        """Return the demand, and the sizes of each mix that it names; with growth repeated over so many weeks.

        Raises InputError, with file and line, for whatever is wrong with it.
        """
        if self.demand is not None:
            demand = read_demand(self.demand)
            sizes = read_mixes(self.mix, demand.labels)
        else:
            from melange_sky.spec.hourly_trace import demand_of_trace  # numpy; few have a trace

            assert self.read_as is not None
            found = demand_of_trace(self.read_as)
            demand, sizes = found.demand, found.mixes
        if self.growth is not None:
            demand = demand.repeated(weeks, self.growth)
        return demand, sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveOptions:
    """What to weigh, and how: the flags of `reserve`, by their names; `bound` uses some of them.

    Raises InputError where one makes no sense.
    """

    source: DemandSource
    commitments: Path | None = None
    owned: Path | None = None
    offers: Path | None = None
    scenarios: Path | None = None
    objective: str = "expected"
    term: str | None = None
    budget_upfront: float | None = None
    startup_s: float = 0.0
    min_run_s: float = 0.0
    discount_rate: float = 0.0
    api_price: str | None = None
    offline: bool = False
    stale_ok: bool = False
    verify: bool | None = None
    within_fraction: float = 0.0
    time_limit_s: float = 60.0
    seed: int = 0
    jobs: int | None = None

    def __post_init__(self) -> None:
        _ = self.aim, self.terms, self.api_usd
        for flag, seconds in (("--startup-s", self.startup_s), ("--min-run-s", self.min_run_s)):
            within(flag, seconds, 0.0, 7 * 86_400.0)
        within("--discount-rate", self.discount_rate, 0.0, 10.0)
        within("--within", self.within_fraction, 0.0, 1.0)
        if self.budget_upfront is not None:
            within("--budget-upfront", self.budget_upfront, 0.0, LARGEST_USD)
        if not 0 < self.time_limit_s < math.inf:
            raise InputError("--time-limit: must be a positive number of seconds")

    @property
    def aim(self) -> Objective:
        """What is made least over the scenarios."""
        kind, colon, level = self.objective.partition(":")
        if kind == "cvar" and colon:
            try:
                quantile = float(level)
            except ValueError:
                quantile = math.nan
            if 0 <= quantile < 1:
                return Objective(kind="cvar", quantile=quantile)
        elif self.objective == "expected":
            return Objective(kind="expected")
        elif self.objective == "regret":
            return Objective(kind="regret")
        raise InputError(
            f"--objective: '{clip(self.objective)}' must be expected, regret or cvar:Q with a fraction Q such as cvar:0.9"
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms to weigh as words: 1y, 6m, block, all; none for those of up to a year."""
        words = () if self.term is None else tuple(w.strip() for w in self.term.split(","))
        for word in words:
            if word not in (BLOCK, ALL_TERMS) and not _TERM.match(word):
                raise InputError(
                    f"--term: '{clip(word)}' must be such as 1y, 3y, 6m, block or all, several joined by commas"
                )
        return words

    @property
    def term_hours(self) -> frozenset[float]:
        """The lengths that are asked for by name."""
        found = (_TERM.match(word) for word in self.terms)
        return frozenset(
            int(match[1]) * (12 if match[2] == "y" else 1) * HOURS_PER_MONTH
            for match in found
            if match
        )

    @property
    def weeks(self) -> int:
        """How many weeks a growing demand is repeated over: a year, or the longest term asked for."""
        longest = max(self.term_hours, default=0.0)
        return max(WEEKS_A_YEAR, WEEKS_A_YEAR * round(longest / (12 * HOURS_PER_MONTH)))

    @property
    def api_usd(self) -> tuple[float, float] | None:
        """USD per million input and output tokens of an API to compare with."""
        if self.api_price is None:
            return None
        try:
            prices = tuple(float(word) for word in self.api_price.split(","))
        except ValueError:
            prices = ()
        if len(prices) != 2 or not all(0 <= p <= 1e6 for p in prices) or not any(prices):
            raise InputError(
                f"--api-price: '{clip(self.api_price)}' must be two prices in USD per million tokens, IN,OUT, such as 0.5,1.5"
            )
        return prices[0], prices[1]

    @property
    def changes(self) -> tuple[ScenarioChanges, ...]:
        """The scenarios, the one as given first."""
        return (AS_GIVEN,) if self.scenarios is None else read_scenarios(self.scenarios)

    def request(self, hooks: Hooks = NO_HOOKS) -> PlanRequest:
        """How prices are read and capacities looked up."""
        return PlanRequest(
            prices=OfferQuery(
                offline=self.offline, offers_csv=self.offers, progress=hooks.refreshing
            ),
            solve=SolveOptions(time_limit_s=self.time_limit_s),
            sensitivity=False,
            progress=hooks.estimating,
        )


def wishes(**flags: Any) -> ReserveOptions:
    """Return the options of flags by their names; those of the demand go to its source."""
    of_source = {field.name for field in fields(DemandSource)}
    source = {name: value for name, value in flags.items() if name in of_source}
    rest = {name: value for name, value in flags.items() if name not in of_source}
    return ReserveOptions(source=DemandSource(**source), **rest)
