"""`sky.melange`: the same jobs from Python, where SkyPilot is installed.

    import sky
    planned = sky.melange.plan("chat.yaml")
    sky.melange.write(planned, "chat-plan")

SkyPilot finds this module through the entry point `sky.client_sdks`; it works without SkyPilot too, as
`melange_sky.sdk`. Errors are those of `melange_sky.errors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from melange_sky.plans import Plan

__all__ = ["load", "plan", "render", "table", "write"]


def plan(
    spec: str | PathLike[str],
    *,
    offline: bool = False,
    refresh: bool = False,
    offers: str | PathLike[str] | None = None,
    allow_flagged: bool = False,
    time_limit_s: float = 30.0,
) -> Plan:
    """Plan the cheapest mix for a spec file (or a Mélange JSON config); writes nothing.

    `offline` opens no socket, `refresh` pulls today's prices first, `offers` is a CSV of your own.
    Raises InputError, InfeasibleError, NoPlanInTimeError or SourceUnavailableError.
    """
    from melange_sky.optimizer import SolveOptions
    from melange_sky.planner.plan_spec import plan_spec
    from melange_sky.planner.request import PlanRequest
    from melange_sky.pricing import OfferQuery

    request = PlanRequest(
        prices=OfferQuery(
            offline=offline, refresh=refresh, offers_csv=None if offers is None else Path(offers)
        ),
        allow_flagged=allow_flagged,
        solve=SolveOptions(time_limit_s=time_limit_s),
    )
    return plan_spec(Path(spec), request)


def load(plan_json: str | PathLike[str]) -> Plan:
    """Read a saved plan back."""
    from melange_sky.planfile import load_plan

    return load_plan(Path(plan_json))


def render(planned: Plan) -> dict[str, str]:
    """Return the SkyServe services of a plan: file name → YAML text."""
    from melange_sky.rendering import render_services

    return render_services(planned)


def write(planned: Plan, folder: str | PathLike[str], *, force: bool = False) -> Path:
    """Write plan.json, services and gateway task as one folder, all or nothing; return the folder."""
    from melange_sky.planfile import dump_plan
    from melange_sky.rendering import GATEWAY_FILE, render_gateway, write_folder

    target = Path(folder)
    files = {"plan.json": dump_plan(planned), **render(planned)}
    if len(files) > 1:
        files[GATEWAY_FILE] = render_gateway(planned)
    write_folder(target, files, force=force)
    return target


def table(planned: Plan) -> str:
    """Return the plan as a table for people."""
    from melange_sky.report.plan_table import plan_table

    return plan_table(planned)
