"""Replay plans, and compare fleets that hold in replay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.planner.comparison import Contender
from melange_sky.planner.simulating import SimulateOptions, simulate_models
from melange_sky.planner.verifying import CompareOptions, compare_source
from melange_sky.replay import Simulation
from melange_sky.report.comparison import comparison_table, print_comparison
from melange_sky.report.page import html_of, text_of
from melange_sky.report.simulation import print_simulations
from melange_sky.report.terminal import terminal_width
from melange_sky.sdk.arguments import path_of, plan_of, source_of
from melange_sky.sdk.results import Shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melange_sky.report.figures import Figure
    from melange_sky.sdk.arguments import AnyPath, AnyPlan, AnySpec


class Simulations(Shown, tuple[Simulation, ...]):
    """One replay per model, printed as their tables. `met` is whether all hold their SLO."""

    __slots__ = ()

    @property
    def met(self) -> bool:
        """Whether every replayed model holds its SLO."""
        return all(simulation.verdict.met for simulation in self)

    def __str__(self) -> str:
        return text_of(print_simulations, self, width=terminal_width())

    def _tables_html(self) -> str:
        return html_of(print_simulations, self)

    def _figures(self) -> tuple[Figure, ...]:
        from melange_sky.report.figures.replays import simulation_figures

        return tuple(figure for one in self for figure in simulation_figures(one))


class Comparison(Shown, tuple[Contender, ...]):
    """Fleets at equal attainment, printed as a table: a row per rate and kind of fleet."""

    __slots__ = ()

    def __str__(self) -> str:
        return comparison_table(self, width=terminal_width())

    def _tables_html(self) -> str:
        return html_of(print_comparison, self)

    def _figures(self) -> tuple[Figure, ...]:
        from melange_sky.report.figures.rates import comparison_figure

        return (comparison_figure(self),)


def simulate(
    plan: AnyPlan,
    *,
    trace: AnyPath | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
    rate_scale: float = 1.0,
    duration_s: float | None = None,
    seed: int = 0,
    ci: float = 0.01,
    burstiness: float = 1.0,
    policy: str = "gateway",
    outages_per_hour: float = 0.0,
    outage_s: float = 300.0,
    model_name: str | None = None,
    jobs: int | None = None,
) -> Simulations:
    """Replay traffic through a planned fleet and judge it. Same seed, same result.

    Args:
        plan: A plan, or the plan.json or folder of one.
        trace: Trace to replay; None samples the plan's workload.
        columns: Which column of the trace is what, "time=ts:ms,input=n_in" or a mapping; None for told by names
            and values.
        timezone: Zone of the trace's stamps that name none, such as "Europe/Berlin".
        keep_failed: Count its requests that failed or have no output token, too.
        rate_scale: Multiplies the rate; a trace's gaps are divided by it.
        duration_s: Seconds of traffic; a trace is cut there.
        seed: Seed of arrivals, sizes and outages.
        ci: Half width of the attainment's interval to reach by running longer.
        burstiness: Squared coefficient of variation of sampled arrivals' gaps; 1 is Poisson.
        policy: The gateway's own routing, or SkyServe's "round_robin", "least_load",
            "instance_aware_least_load".
        outages_per_hour: Failures per replica and hour.
        outage_s: Seconds until a replacement serves.
        model_name: Replay only this model of a plan of several.
        jobs: Replays to run in parallel; None for all cores, at most 8. Does not change the result.

    Returns:
        A `Simulation` per model; a missed SLO is no error (see `met` and each `verdict`).

    Raises:
        InputError: An option makes no sense, the trace cannot be read, or the plan is none.
    """
    options = SimulateOptions(
        trace=path_of(trace),
        columns=columns,
        timezone=timezone,
        keep_failed=keep_failed,
        rate_scale=rate_scale,
        duration_s=duration_s,
        seed=seed,
        ci=ci,
        burstiness=burstiness,
        policy=policy,
        outages_per_hour=outages_per_hour,
        outage_s=outage_s,
        model_name=model_name,
        jobs=jobs,
    )
    return Simulations(simulate_models(plan_of(plan), options))


def compare(
    spec: AnySpec,
    *,
    rates: str | Sequence[float] | None = None,
    trace: AnyPath | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
    burstiness: float | None = None,
    seed: int = 0,
    jobs: int | None = None,
    offline: bool = False,
    time_limit_s: float = 30.0,
    verify_seconds: float = 120.0,
) -> Comparison:
    """Compare the mix, Mélange's sliced mix and each accelerator alone, all verified by replay.

    Args:
        spec: A spec file of one model, or the same as a dict.
        rates: Requests per second to compare at, as numbers or "1,4,16"; None for the spec's own traffic.
        trace: Trace to replay, scaled to each rate; None for the spec's own, or a sample of its workload.
        columns: Which column of the trace is what, "time=ts:ms,input=n_in" or a mapping; None for told by names
            and values.
        timezone: Zone of the trace's stamps that name none, such as "Europe/Berlin".
        keep_failed: Count its requests that failed or have no output token, too.
        burstiness: Squared coefficient of variation of sampled arrivals' gaps; None for the spec's.
        seed: Seed of the replays.
        jobs: Replays to run in parallel; None for all cores, at most 8. Does not change the result.
        offline: Open no socket at all.
        time_limit_s: Seconds for planning, for each fleet.
        verify_seconds: Seconds for the searches by replay at each rate.

    Returns:
        A `Contender` per rate and kind of fleet; its cost is None, with the reason, where none holds.

    Raises:
        InputError: The spec or an option is wrong, or the spec has several models.
        SourceUnavailableError: No prices can be had.
    """
    options = CompareOptions(
        rates=rates,
        trace=path_of(trace),
        columns=columns,
        timezone=timezone,
        keep_failed=keep_failed,
        burstiness=burstiness,
        seed=seed,
        jobs=jobs,
        offline=offline,
        time_limit_s=time_limit_s,
        verify_seconds=verify_seconds,
    )
    return Comparison(compare_source(source_of(spec), options))
