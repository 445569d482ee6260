"""`plan --verify`: the options that it adds, and what it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import NumberRange, jobs_of, jobs_option, replay_bar
from melange_sky.errors import InputError, SloMissedError

if TYPE_CHECKING:
    from melange_sky.plans import ModelPlan, Plan, VerificationRound

_OPTIONS = (
    click.option(
        "--verify",
        is_flag=True,
        help="Replay the plan and plan again until the SLO holds, or say why it cannot.",
    ),
    click.option(
        "--verify-trace",
        type=click.Path(path_type=Path),
        metavar="CSV",
        help="Replay this trace, scaled to the spec's rate; default: sample the workload.",
    ),
    click.option(
        "--burstiness",
        type=NumberRange(min=0.01, max=1000),
        default=1.0,
        show_default=True,
        help="Of sampled arrivals: squared variation of the gaps, 1 Poisson.",
    ),
    click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Of the replay.",
    ),
    jobs_option,
)


def verify_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `plan --verify` to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take_options(asked: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `verify_options` out of `asked`; InputError for one without --verify."""
    names = ("verify", "verify_trace", "burstiness", "seed", "jobs")
    taken = {name: asked.pop(name) for name in names}
    if taken["verify_trace"] is not None and not taken["verify"]:
        raise InputError("--verify-trace needs --verify")
    return taken


def plan_and_verify(spec_file: Path, request: Any, asked: dict[str, Any]) -> Plan:
    """Plan and close the loop; each round is told on stderr."""
    from melange_sky.planner import plan_loaded
    from melange_sky.planner.closed_loop import LoopRequest, plan_verified
    from melange_sky.planner.verification import SimulationRequest, rate_of_trace
    from melange_sky.replay import Replay
    from melange_sky.spec import MelangeConfig, load_spec

    spec = load_spec(spec_file)
    if isinstance(spec, MelangeConfig):
        raise InputError(
            f"{spec_file}: Mélange's config says nothing of the engine: nothing to replay"
        )
    trace = asked["verify_trace"]
    if trace is not None and spec.multi:
        raise InputError(
            "--verify-trace holds one model's requests, but the spec has several models"
        )
    scale = 1.0
    if trace is not None:
        scale = spec.models[0].workload.rate_rps / rate_of_trace(trace)
    simulation = SimulationRequest(
        trace=trace,
        rate_scale=scale,
        burstiness=asked["burstiness"],
        how=Replay(seed=asked["seed"]),
        jobs=jobs_of(asked["jobs"]),
    )
    planned = plan_loaded(spec, request)
    with replay_bar() as told:
        loop = LoopRequest(simulation=replace(simulation, told=told), told=_tell)
        return plan_verified(planned, spec, request, loop)


def _tell(one: VerificationRound) -> None:
    click.echo(
        f"replayed {one.fleet} at ${one.cost_usd_per_hour:,.3f}/h: {one.attainment:.1%} within the SLO "
        f"({one.low:.1%} to {one.high:.1%})",
        err=True,
    )


def verification_text(plan: ModelPlan) -> str:
    """Return what the replay said of a plan, one paragraph for people; empty where none ran."""
    found = plan.verification
    if found is None:
        return ""
    word = "Holds in replay" if found.holds else "Does NOT hold in replay"
    text = (
        f"{word}: {found.attainment:.2%} of {found.requests} requests within the SLO "
        f"(95 % interval {found.low:.2%} to {found.high:.2%}, target {plan.slo.attainment:.4g}); "
        f"{found.traffic}.\n"
    )
    if found.premium_usd_per_hour:
        before = plan.cost_usd_per_hour - found.premium_usd_per_hour
        share = found.premium_usd_per_hour / before if before > 0 else 0.0
        fleets = {(one.fleet, one.cost_usd_per_hour) for one in found.rounds}
        text += (
            f"That costs ${found.premium_usd_per_hour:,.3f}/h ({share:.0%}) more than the plan before "
            f"any replay, which missed; {len(fleets)} fleets were replayed.\n"
        )
    return text + (f"Why: {found.reason}\n" if found.reason else "")


def raise_if_missed(planned: Plan) -> None:
    """Raise SloMissedError (exit 5) where a replayed plan does not hold."""
    reasons = [
        f"{p.name}: {p.verification.reason or 'the SLO is missed in replay'}"
        for p in planned.models
        if p.verification is not None and not p.verification.holds
    ]
    if reasons:
        raise SloMissedError("; ".join(dict.fromkeys(reasons)))
