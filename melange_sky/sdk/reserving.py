"""Advise on commitments over a demand, and tell what a perfect autoscaler costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.planner.reserving.answer import Reservation
from melange_sky.planner.reserving.document import reserve_document
from melange_sky.planner.reserving.flow import (
    Bound,
    bound_source,
    reserve_source,
    write_reservation,
)
from melange_sky.planner.reserving.wishes import wishes
from melange_sky.report.reserve import bound_text, reserve_text
from melange_sky.sdk.arguments import path_of, source_of
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melange_sky.report.figures import Figure
    from melange_sky.sdk.arguments import AnyPath, AnySpec


class Advised(Shown, Reservation):
    """What to commit to and what to rent, printed as its tables; `document` is what reserve.json holds."""

    __slots__ = ()

    @property
    def document(self) -> dict[str, Any]:
        """What reserve.json holds."""
        return reserve_document(self)

    def write(self, folder: AnyPath, *, force: bool = False) -> tuple[str, ...]:
        """Write reserve.json and a plan per distinct fleet as one folder; return the files' names.

        Raises InputError where the folder holds foreign or edited files and `force` is False.
        """
        path = path_of(folder)
        assert path is not None
        return write_reservation(self, path, force=force)

    def __str__(self) -> str:
        return reserve_text(self.document)

    def _figures(self) -> tuple[Figure, ...]:
        from melange_sky.report.figures.week import reserve_figures

        return reserve_figures(self.document)


class Bounded(Shown, Bound):
    """What a perfect autoscaler costs, printed as a table; `document` is what `bound --format json` prints."""

    __slots__ = ()

    def __str__(self) -> str:
        return bound_text(self.document)


def reservation(
    spec: AnySpec,
    *,
    demand: AnyPath | None = None,
    trace: AnyPath | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
    mix: Sequence[str] = (),
    growth: float | None = None,
    commitments: AnyPath | None = None,
    owned: AnyPath | None = None,
    offers: AnyPath | None = None,
    term: str | None = None,
    startup_s: float = 0.0,
    time_limit_s: float = 60.0,
    offline: bool = False,
    stale_ok: bool = False,
    scenarios: AnyPath | None = None,
    objective: str = "expected",
    budget_upfront: float | None = None,
    min_run_s: float = 0.0,
    discount_rate: float = 0.0,
    api_price: str | None = None,
    within_fraction: float = 0.0,
    verify: bool | None = None,
    seed: int = 0,
    jobs: int | None = None,
) -> Advised:
    """Advise how many of which instances to commit to, and which to rent on top in every hour.

    Args:
        spec: A spec file of one model, or the same as a dict; its rate is replaced by the demand's.
        demand: CSV of time,rate_rps[,mix], or rate_rps:NAME for each model, in equal steps.
        trace: In place of it, a log of requests, counted by the hour.
        columns: Which column of the trace is what.
        timezone: Zone of the trace's stamps that name none.
        keep_failed: Count its requests that failed or have no output token, too.
        mix: Request sizes of the demand's mixes, texts LABEL=FILE.
        growth: Repeat whole weeks over a year, growing so much a year; None takes the demand as it is.
        commitments: CSV of negotiated terms, weighed in place of list terms.
        owned: CSV of instances that are paid for already.
        offers: CSV of your own on-demand offers.
        term: Terms to weigh, such as "1y,3y"; None for your own and list terms of up to a year.
        startup_s: Seconds from renting an instance until it serves.
        time_limit_s: Seconds for all that is solved; not for reading prices, estimates and replays.
        offline: Open no socket at all.
        stale_ok: Reckon with prices and terms older than a day.
        scenarios: YAML of other demands and prices with weights.
        objective: "expected", "regret" or "cvar:Q".
        budget_upfront: Most USD that may be paid upfront.
        min_run_s: Shortest time in seconds for which an instance is rented.
        discount_rate: Interest a year on what is paid upfront, as a fraction.
        api_price: "IN,OUT" in USD per million tokens of an API to compare with.
        within_fraction: End the search once proven to cost at most so much more than the best.
        verify: Replay every fleet and hour; None: where there are at most 40 fleets.
        seed: Seed of the replays.
        jobs: Replays to run in parallel; None for all cores, at most 8. Does not change the result.

    Returns:
        The advice; `missed` names fleets that do not hold in replay, which is no error.

    Raises:
        InputError: The spec, a file or an option is wrong, with file and line.
        InfeasibleError: No fleet serves some hour.
        SourceUnavailableError: A price or a term is older than a day, or none can be had.
        NoPlanInTimeError: The time did not suffice.
    """
    options = wishes(
        demand=path_of(demand),
        trace=path_of(trace),
        columns=columns,
        timezone=timezone,
        keep_failed=keep_failed,
        mix=mix,
        growth=growth,
        commitments=path_of(commitments),
        owned=path_of(owned),
        offers=path_of(offers),
        term=term,
        startup_s=startup_s,
        time_limit_s=time_limit_s,
        offline=offline,
        stale_ok=stale_ok,
        scenarios=path_of(scenarios),
        objective=objective,
        budget_upfront=budget_upfront,
        min_run_s=min_run_s,
        discount_rate=discount_rate,
        api_price=api_price,
        within_fraction=within_fraction,
        verify=verify,
        seed=seed,
        jobs=jobs,
    )
    return as_result(Advised, reserve_source(source_of(spec), options))


def bound(
    spec: AnySpec,
    *,
    demand: AnyPath | None = None,
    trace: AnyPath | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
    mix: Sequence[str] = (),
    growth: float | None = None,
    commitments: AnyPath | None = None,
    owned: AnyPath | None = None,
    offers: AnyPath | None = None,
    term: str | None = None,
    startup_s: float = 0.0,
    time_limit_s: float = 60.0,
    offline: bool = False,
    stale_ok: bool = False,
) -> Bounded:
    """Tell what a perfect autoscaler costs over a demand: the cheapest fleet of every hour.

    Args:
        spec: A spec file of one model, or the same as a dict; its rate is replaced by the demand's.
        demand: CSV of time,rate_rps[,mix], or rate_rps:NAME for each model, in equal steps.
        trace: In place of it, a log of requests, counted by the hour.
        columns: Which column of the trace is what.
        timezone: Zone of the trace's stamps that name none.
        keep_failed: Count its requests that failed or have no output token, too.
        mix: Request sizes of the demand's mixes, texts LABEL=FILE.
        growth: Repeat whole weeks over a year, growing so much a year; None takes the demand as it is.
        commitments: CSV of negotiated terms, for `bound_usd`.
        owned: CSV of instances that are paid for already.
        offers: CSV of your own on-demand offers.
        term: Terms to weigh, for `bound_usd`.
        startup_s: Seconds from renting an instance until it serves, billed in `autoscaler_usd`.
        time_limit_s: Seconds for all that is solved; not for reading prices, estimates and replays.
        offline: Open no socket at all.
        stale_ok: Reckon with prices and terms older than a day.

    Returns:
        `autoscaler_usd` on demand alone, and `bound_usd` with every used hour at its cheapest rate.

    Raises:
        InputError: The spec, a file or an option is wrong, with file and line.
        InfeasibleError: No fleet serves some hour.
        SourceUnavailableError: A price or a term is older than a day, or none can be had.
        NoPlanInTimeError: The time did not suffice.
    """
    options = wishes(
        demand=path_of(demand),
        trace=path_of(trace),
        columns=columns,
        timezone=timezone,
        keep_failed=keep_failed,
        mix=mix,
        growth=growth,
        commitments=path_of(commitments),
        owned=path_of(owned),
        offers=path_of(offers),
        term=term,
        startup_s=startup_s,
        time_limit_s=time_limit_s,
        offline=offline,
        stale_ok=stale_ok,
    )
    return as_result(Bounded, bound_source(source_of(spec), options))
