"""Plan a spec, verify it by replay, read, render and write plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from melange_sky.planner.plan_files import load_plan, render_services, write_plan
from melange_sky.planner.planning import PlanOptions, plan_source
from melange_sky.plans import Plan
from melange_sky.report.plan_table import plan_html, plan_table
from melange_sky.report.terminal import terminal_width
from melange_sky.report.verification import verification_text
from melange_sky.sdk.arguments import path_of, plan_of, source_of
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.report.figures import Figure
    from melange_sky.sdk.arguments import AnyPath, AnyPlan, AnySpec


class PlanResult(Shown, Plan):
    """A `Plan` that prints as its table, verification included."""

    __slots__ = ()

    def __str__(self) -> str:
        verdicts = "".join(map(verification_text, self.models))
        return plan_table(self, width=terminal_width()) + verdicts

    def _tables_html(self) -> str:
        return plan_html(self)

    def _figures(self) -> tuple[Figure, ...]:
        from melange_sky.report.figures import plan_figures

        return plan_figures(self)


def plan(
    spec: AnySpec,
    *,
    offline: bool = False,
    refresh: bool = False,
    time_limit_s: float = 30.0,
    assignment: Literal["fractional", "sliced"] = "fractional",
    offers: AnyPath | None = None,
    allow_flagged: bool = False,
    within_fraction: float = 0.0,
    alternatives: int = 0,
    stay_close: AnyPath | None = None,
    switch_cost: float | None = None,
    throughput_error: float = 0.0,
    error_budget: int | None = None,
    price_error: float = 0.0,
    confidence: float = 0.5,
    engine_generation: str | None = None,
    verify: bool = False,
    verify_trace: AnyPath | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
    burstiness: float | None = None,
    seed: int = 0,
    jobs: int | None = None,
    verify_seconds: float = 120.0,
    incumbent: AnyPath | None = None,
    affinity: Literal["session", "off"] = "session",
) -> PlanResult:
    """Plan the cheapest mix of GPUs for a spec; writes nothing (see `write`).

    Args:
        spec: A spec file, the same as a dict (paths in it begin at the working directory), or a
            Mélange JSON config.
        offline: Open no socket at all.
        refresh: Pull today's prices first.
        time_limit_s: Seconds for the solver.
        assignment: "fractional" splits a request size freely over options, "sliced" as Mélange does.
        offers: CSV of your own offers.
        allow_flagged: Plan with prices that a sanity rule keeps out.
        within_fraction: Take the simplest mix that costs at most this fraction more.
        alternatives: How many other good mixes to add.
        stay_close: plan.json of a running plan, to change little against; needs `switch_cost`.
        switch_cost: USD per hour that each started or stopped instance counts then.
        throughput_error: Plan for capacities lower by this fraction.
        error_budget: How many sizes per option may be wrong at once; None for all.
        price_error: Show the cost range if prices move by this fraction.
        confidence: Plan with capacities that estimates reach with this probability, such as 0.9.
        engine_generation: Constants of the estimates; None for those of the engine's version.
        verify: Replay the plan and plan again until the SLO holds, or say why it cannot.
        verify_trace: Trace to replay, scaled to the spec's rate; None for the spec's own.
        columns: Which column of the trace is what, "time=ts:ms,input=n_in" or a mapping; None for told by names
            and values.
        timezone: Zone of the trace's stamps that name none, such as "Europe/Berlin".
        keep_failed: Count its requests that failed or have no output token, too.
        burstiness: Squared coefficient of variation of sampled arrivals' gaps; None for the spec's.
        seed: Seed of the replay.
        jobs: Replays to run in parallel; None for all cores, at most 8. Does not change the result.
        verify_seconds: Seconds for the search by replay; the best fleet that held by then is returned.
        incumbent: plan.json of a plan of before: the result is never dearer than it is today where it
            holds in replay.
        affinity: What the gateway keeps together where the workload has reuse: "session", or "off" where
            requests go to any replica, whose prefix caches then find less.

    Returns:
        The plan. One that was replayed and misses its SLO is returned too: see each model's
        `verification.holds`.

    Raises:
        InputError: The spec or an option is wrong; every problem with its key.
        InfeasibleError: No fleet serves it; the message names what cannot be served.
        NoPlanInTimeError: No plan was found within `time_limit_s`; none is proven impossible.
        SourceUnavailableError: No prices can be had.
    """
    options = PlanOptions(
        offline=offline,
        refresh=refresh,
        time_limit_s=time_limit_s,
        assignment=assignment,
        offers=path_of(offers),
        allow_flagged=allow_flagged,
        within_fraction=within_fraction,
        alternatives=alternatives,
        stay_close=path_of(stay_close),
        switch_cost=switch_cost,
        throughput_error=throughput_error,
        error_budget=error_budget,
        price_error=price_error,
        confidence=confidence,
        engine_generation=engine_generation,
        verify=verify,
        verify_trace=path_of(verify_trace),
        columns=columns,
        timezone=timezone,
        keep_failed=keep_failed,
        burstiness=burstiness,
        seed=seed,
        jobs=jobs,
        verify_seconds=verify_seconds,
        incumbent=path_of(incumbent),
        affinity=affinity,
    )
    return as_result(PlanResult, plan_source(source_of(spec), options))


def verify(
    spec: AnySpec,
    *,
    verify_trace: AnyPath | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
    burstiness: float | None = None,
    seed: int = 0,
    jobs: int | None = None,
    offline: bool = False,
    offers: AnyPath | None = None,
    time_limit_s: float = 30.0,
    verify_seconds: float = 120.0,
    incumbent: AnyPath | None = None,
) -> PlanResult:
    """Plan a spec, replay it and plan again until its SLO holds: `plan` with `verify=True`.

    Args:
        spec: A spec file, or the same as a dict.
        verify_trace: Trace to replay, scaled to the spec's rate; None for the spec's own.
        columns: Which column of the trace is what, "time=ts:ms,input=n_in" or a mapping; None for told by names
            and values.
        timezone: Zone of the trace's stamps that name none, such as "Europe/Berlin".
        keep_failed: Count its requests that failed or have no output token, too.
        burstiness: Squared coefficient of variation of sampled arrivals' gaps; None for the spec's.
        seed: Seed of the replay.
        jobs: Replays to run in parallel; None for all cores, at most 8. Does not change the result.
        offline: Open no socket at all.
        offers: CSV of your own offers.
        time_limit_s: Seconds for the solver, each time.
        verify_seconds: Seconds for the search by replay; the best fleet that held by then is returned.
        incumbent: plan.json of a plan of before: the result is never dearer than it is today where it
            holds in replay.

    Returns:
        The plan that holds, or the last one tried: each model's `verification` says which, and why.

    Raises:
        InputError, InfeasibleError, NoPlanInTimeError, SourceUnavailableError: As `plan` does.
    """
    return plan(
        spec,
        verify=True,
        verify_trace=verify_trace,
        columns=columns,
        timezone=timezone,
        keep_failed=keep_failed,
        burstiness=burstiness,
        seed=seed,
        jobs=jobs,
        offline=offline,
        offers=offers,
        time_limit_s=time_limit_s,
        verify_seconds=verify_seconds,
        incumbent=incumbent,
    )


def load(plan_json: AnyPath) -> PlanResult:
    """Read a saved plan back.

    Args:
        plan_json: A plan.json, or the folder that holds one.

    Returns:
        The plan, as it was written.

    Raises:
        InputError: There is no plan, or it is damaged.
    """
    return as_result(PlanResult, load_plan(Path(plan_json)))


def render(planned: AnyPlan) -> dict[str, str]:
    """Return the SkyServe services of a plan.

    Args:
        planned: A plan, or the plan.json or folder of one.

    Returns:
        YAML text by file name, one per option in use.

    Raises:
        InputError: There is no plan, or it is damaged.
    """
    return render_services(plan_of(planned))


def write(planned: AnyPlan, folder: AnyPath, *, force: bool = False) -> Path:
    """Write plan.json, services and gateway task as one folder, all or nothing.

    Args:
        planned: A plan, or the plan.json or folder of one.
        folder: Where to write; an earlier plan's unedited folder is replaced.
        force: Replace a folder that holds foreign or edited files.

    Returns:
        The folder.

    Raises:
        InputError: The folder holds foreign or edited files, or cannot be written.
    """
    target = Path(folder)
    write_plan(plan_of(planned), target, force=force)
    return target


def table(planned: AnyPlan) -> str:
    """Return a plan as a table for people.

    Args:
        planned: A plan, or the plan.json or folder of one.

    Returns:
        Plain text of 118 columns.

    Raises:
        InputError: There is no plan, or it is damaged.
    """
    return plan_table(plan_of(planned))
