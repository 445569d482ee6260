"""Why a plan is what it is, what other points would cost, and what a GPU carries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.optimizer import SweepPoint
from melange_sky.planner.capacity import (
    CapacityAnswer,
    CapacityOptions,
    answer_capacity,
    ask_capacity,
)
from melange_sky.planner.explaining import ExplainOptions, PlanReasons, explain_plan
from melange_sky.planner.sweep import SweepOptions, sweep_source
from melange_sky.report.capacity import capacity_text
from melange_sky.report.explanation import explanation_text
from melange_sky.report.page import rows_html
from melange_sky.report.sweep import RIGHT, sweep_rows, sweep_table
from melange_sky.sdk.arguments import path_of, plan_of, source_of
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.report.figures import Figure
    from melange_sky.sdk.arguments import AnyPath, AnyPlan, AnySpec


class Reasons(Shown, PlanReasons):
    """Why a plan is what it is: `summary`, `explanation`, `others` and `robustness`, printed as sentences."""

    __slots__ = ()

    def __str__(self) -> str:
        return explanation_text(self)


class Sweep(Shown, tuple[SweepPoint, ...]):
    """The points of a sweep, printed as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return sweep_table(self)

    def _tables_html(self) -> str:
        return rows_html(sweep_rows(self), right=RIGHT)

    def _figures(self) -> tuple[Figure, ...]:
        from melange_sky.report.figures.rates import sweep_figures

        return sweep_figures(self)


class Capacities(Shown, CapacityAnswer):
    """What each option carries, printed as a matrix each: rows input, columns output tokens."""

    __slots__ = ()

    def __str__(self) -> str:
        return "".join(f"warning: {text}\n" for text in self.warnings) + capacity_text(self)


def explain(
    plan: AnyPlan,
    *,
    alternatives: int = 0,
    within_fraction: float = 0.0,
    throughput_error: float = 0.0,
    price_error: float = 0.0,
    error_budget: int | None = None,
    replay: bool = True,
    time_limit_s: float = 30.0,
) -> Reasons:
    """Say why a plan is what it is: who takes what, what binds, what is next to it, what each rule costs.

    Args:
        plan: A plan, or the plan.json or folder of one. Nothing else is read.
        alternatives: How many other good mixes to show.
        within_fraction: Show the simplest mix that costs at most this fraction more.
        throughput_error: Show what capacities lower by this fraction would do.
        price_error: Show the cost range if prices move by this fraction.
        error_budget: How many sizes per option may be wrong at once; None for all.
        replay: Find the highest rate that the fleet, and the next cheaper one, hold.
        time_limit_s: Seconds for each solve, and for the replays.

    Returns:
        The reasons; `explanation` holds them as data.

    Raises:
        InputError: There is no plan, or it is damaged.
    """
    options = ExplainOptions(
        alternatives=alternatives,
        within_fraction=within_fraction,
        throughput_error=throughput_error,
        price_error=price_error,
        error_budget=error_budget,
        replay=replay,
        time_limit_s=time_limit_s,
    )
    return as_result(Reasons, explain_plan(plan_of(plan), options))


def sweep(
    spec: AnySpec,
    *,
    rates: str | float | Sequence[float],
    tpot_ms: str | float | Sequence[float] | None = None,
    prices: str | Sequence[str] = (),
    as_of: str | None = None,
    offline: bool = False,
    offers: AnyPath | None = None,
    time_limit_s: float = 30.0,
) -> Sweep:
    """Plan a spec at every rate, TPOT limit and price given: cost and mix at each point.

    Args:
        spec: A spec file, or the same as a dict.
        rates: Requests per second, as numbers or text: "1,4,16", "1:128:x2", "10:100:+10".
        tpot_ms: TPOT limits in milliseconds, in the same form; None for the spec's own.
        prices: Price factors in the same form, for every price or for one accelerator ("H100=0.5,2").
        as_of: Prices of that date or snapshot.
        offline: Open no socket at all.
        offers: CSV of your own offers.
        time_limit_s: Seconds for each solve.

    Returns:
        A `SweepPoint` per TPOT limit, price step and rate; one without a plan says why.

    Raises:
        InputError: The spec or an axis is wrong.
        SourceUnavailableError: No prices can be had.
    """
    options = SweepOptions(
        rates=rates,
        tpot_ms=tpot_ms,
        prices=prices,
        as_of=as_of,
        offline=offline,
        offers=path_of(offers),
        time_limit_s=time_limit_s,
    )
    return Sweep(sweep_source(source_of(spec), options))


def capacity(
    *,
    model: str,
    accelerators: str | Sequence[str],
    inputs: str | Sequence[int],
    outputs: str | Sequence[int],
    tpot_ms: float | None = None,
    ttft_ms: float | None = None,
    attainment: float = 0.95,
    engine: str = DEFAULT_ENGINE.name,
    quantization: str | None = None,
    dtype: str | None = None,
    kv_cache_dtype: str | None = None,
    max_nodes: int = 1,
    offline: bool = False,
) -> Capacities:
    """Return the highest request rate of each option at exactly the given request sizes.

    Args:
        model: Hugging Face id, with @revision or not, or path of a config.json.
        accelerators: "L4,A10G:2,H100" or a list of such names; a bare name is one GPU.
        inputs: Input tokens, "25,100,1000" or a list.
        outputs: Output tokens, in the same form.
        tpot_ms: Limit of the time per output token after the first, in milliseconds.
        ttft_ms: Limit of the time to the first token, in milliseconds.
        attainment: Fraction of requests that meets the limits.
        engine: The engine, or a generation whose constants give the estimates.
        quantization: As the engine's flag.
        dtype: As the engine's flag.
        kv_cache_dtype: As the engine's flag.
        max_nodes: Most instances of one replica.
        offline: Open no socket at all: the model must be shipped, kept or a file.

    Returns:
        A row per option: its best split, the cells with rate, origin and reason, the cheapest offer.

    Raises:
        InputError: A model, accelerator, size or flag is unknown or makes no sense.
        InfeasibleError: No option fits the model.
        SourceUnavailableError: The model must be fetched, and the Hub is out of reach.
    """
    options = CapacityOptions(
        model=model,
        accelerators=accelerators,
        inputs=inputs,
        outputs=outputs,
        tpot_ms=tpot_ms,
        ttft_ms=ttft_ms,
        attainment=attainment,
        engine=engine,
        quantization=quantization,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        max_nodes=max_nodes,
        offline=offline,
    )
    return as_result(Capacities, answer_capacity(ask_capacity(options)))
