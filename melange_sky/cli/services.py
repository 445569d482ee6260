"""`melange-sky apply`, `status` and `down`: a plan's services on SkyServe."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.common import echo_json, format_option
from melange_sky.errors import InputError
from melange_sky.plans import models_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import FleetPlan, Plan
    from melange_sky.skyserve import Change, LiveService, Rollout, Wanted
    from melange_sky.skyserve.client import SkyServe

_FILE_LIMIT = 1_000_000

folder_argument = click.argument(
    "folder", metavar="PLAN-FOLDER", type=click.Path(path_type=Path, exists=False)
)
backends_option = click.option(
    "--backends",
    type=click.Path(path_type=Path),
    help="Write OPTION=URL*REPLICAS lines here, as `gateway --backends-file` reads them.",
)
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.command()
@folder_argument
@yes_option
@click.option("--dry-run", is_flag=True, help="Show what would change, and stop.")
@backends_option
def apply(folder: Path, yes: bool, dry_run: bool, backends: Path | None) -> None:
    """Bring the services of PLAN-FOLDER up on SkyServe, or change the running ones to it.

    What grows goes first; what shrinks waits until the rest is ready. Interrupted, run it again.
    Secrets (HF_TOKEN, the engine's API key) are read from the environment.
    """
    from melange_sky.skyserve import Action, compare, roll_out

    planned = _load(folder)
    wanted = _wanted(planned, folder)
    server = _server(wanted)
    live = server.services()
    by_name = {service.name: service for service in live}
    normal = {w.name: server.normal(w, by_name.get(w.name)) for w in wanted}
    changes = compare(wanted, live, normal, _prices(planned))
    _show_changes(changes)
    if dry_run or all(c.action is Action.KEEP for c in changes):
        click.echo("nothing to change" if not dry_run else "dry run: nothing was changed", err=True)
        if dry_run:
            return
    elif not yes:
        click.confirm("Apply these changes?", abort=True, err=True)
    roll_out(server, changes, _rollout())
    _write_backends(backends, wanted, server.services())
    click.echo("all services are ready", err=True)


@click.command()
@folder_argument
@backends_option
@click.option(
    "--observed",
    type=click.Path(path_type=Path),
    help="What `gateway --observed` wrote: rates seen against planned, and whether to replan.",
)
@format_option
def status(folder: Path, backends: Path | None, observed: Path | None, output_format: str) -> None:
    """Show the planned services of PLAN-FOLDER against the live ones."""
    planned = _load(folder)
    traffic = None if observed is None else _traffic(planned, observed)
    wanted = _wanted(planned, folder)
    services = _server(wanted).services()
    _write_backends(backends, wanted, services)
    live = {service.name: service for service in services}
    rows = [_status_row(w, live.get(w.name)) for w in wanted]
    if output_format == "json":
        echo_json({"services": rows} if traffic is None else {"services": rows, "traffic": traffic})
        return
    _show_services(rows)
    if traffic is not None:
        for bucket in traffic["buckets"]:
            click.echo(
                f"{bucket['bucket']}: planned {bucket['planned_rps']:.3g}, "
                f"seen {bucket['seen_rps']:.3g} req/s"
            )
        click.echo(traffic["verdict"])


def _show_services(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        place = row["endpoint"] or "no endpoint yet"
        click.echo(
            f"{row['service']}: {row['ready']} of {row['planned']} ready ({row['status']}), {place}"
        )
        for replica in row["replicas"]:
            click.echo(
                f"  {replica['id']}: {replica['status']} {replica['endpoint'] or ''}".rstrip()
            )


@click.command()
@folder_argument
@yes_option
def down(folder: Path, yes: bool) -> None:
    """Take all running services of the plan in PLAN-FOLDER down."""
    from melange_sky.skyserve import take_down

    planned = _load(folder)
    plans = {model.name for model in models_of(planned)}
    fleet = _fleet_name(planned)
    server = _server(())
    names = [
        s.name
        for s in server.services()
        if s.origin is not None
        and (s.origin[0] in plans or (fleet is not None and s.fleet == fleet))
    ]
    if not names:
        click.echo("nothing of this plan runs", err=True)
        return
    if not yes:
        click.confirm(f"Take down {', '.join(names)}?", abort=True, err=True)
    take_down(server, names, _rollout())
    click.echo("all down", err=True)


def _traffic(planned: Plan | FleetPlan, observed: Path) -> dict[str, Any]:
    """Return seen against planned rates by bucket, and whether replanning pays."""
    from melange_sky.optimizer import SolveOptions
    from melange_sky.planner.observed import outlook
    from melange_sky.spec.demand import load_distribution
    from melange_sky.spec.histogram import to_workload

    models = models_of(planned)
    if len(models) != 1:
        raise InputError("--observed: give the plan.json of one model; this plan has several")
    plan, seen = models[0], load_distribution(observed)
    if seen.rate_rps is None:
        raise InputError(f"{observed}: has no rate_rps, so it cannot be compared with a plan")
    found = outlook(plan, to_workload(seen, seen.rate_rps), SolveOptions())
    planned_rps = plan.workload.rates_rps
    return {
        "buckets": [
            {
                "bucket": plan.workload.label(i, j),
                "planned_rps": planned_rps[i][j],
                "seen_rps": rate,
            }
            for i, row in enumerate(found.rates_rps)
            for j, rate in enumerate(row)
            if rate > 0 or planned_rps[i][j] > 0
        ],
        "cost_usd_per_hour": plan.cost_usd_per_hour,
        "least_usd_per_hour": found.least_usd_per_hour,
        "replan": found.pays,
        "verdict": found.verdict,
    }


def _server(wanted: Sequence[Wanted]) -> SkyServe:
    from melange_sky.skyserve.client import SkyServe

    names = {name for w in wanted for name in w.document.get("secrets") or {}}
    return SkyServe({name: os.environ[name] for name in names if os.environ.get(name)})


def _rollout() -> Rollout:
    from melange_sky.skyserve import Rollout

    return Rollout(
        tell=lambda text: click.echo(text, err=True), clock=time.monotonic, sleep=time.sleep
    )


def _write_backends(
    path: Path | None, wanted: Sequence[Wanted], services: Sequence[LiveService]
) -> None:
    """Write where each option's live service answers; endpoints are read, never guessed."""
    if path is None:
        return
    options = {w.name: w.option for w in wanted}
    lines = [
        f"{options[s.name]}={s.endpoint}*{max(1, s.ready)}\n"
        for s in services
        if s.name in options and s.endpoint
    ]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text("".join(sorted(lines)), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"--backends: cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _load(folder: Path) -> Plan | FleetPlan:
    from melange_sky.planfile import load_plan

    return load_plan(folder / "plan.json" if folder.is_dir() else folder)


def _wanted(planned: Plan | FleetPlan, folder: Path) -> tuple[Wanted, ...]:
    """Return the planned services as their files have them."""
    from melange_sky.rendering import file_name, service_name
    from melange_sky.skyserve import Wanted

    place = folder if folder.is_dir() else folder.parent
    rows = []
    for model in models_of(planned):
        for allocation in model.allocations:
            option = allocation.candidate.option
            if option.offer is None:
                continue
            name = service_name(model, allocation)
            document = _read_service(place / file_name(name))
            rows.append(
                Wanted(
                    name=name,
                    plan=model.name,
                    option=option.name,
                    fleet=_fleet_name(planned),
                    replicas=_replicas(document["service"], place / file_name(name)),
                    price_usd_per_hour=option.price_usd_per_hour,
                    document=document,
                )
            )
    if not rows:
        raise InputError(f"'{place}': the plan has no services that could run")
    return tuple(rows)


def _fleet_name(planned: Plan | FleetPlan) -> str | None:
    """Return the name that the models of a plan have in common; None for a plan of one model."""
    from melange_sky.plans import FleetPlan

    return planned.name if isinstance(planned, FleetPlan) else None


def _read_service(path: Path) -> dict[str, Any]:
    import yaml

    try:
        if path.stat().st_size > _FILE_LIMIT:
            raise InputError(f"{path}: is too large for a service file")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: is missing; write the folder again: melange-sky render PLAN.json -o FOLDER"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML") from error
    usable = isinstance(document, dict) and isinstance(document.get("service"), dict)
    if not usable or not isinstance(document.get("_metadata"), dict):
        raise InputError(f"{path}: is not a service file of a plan; render it again")
    return dict(document)


def _replicas(service: dict[str, Any], path: Path) -> int:
    policy = service.get("replica_policy")
    count = service.get(
        "replicas", policy.get("min_replicas") if isinstance(policy, dict) else None
    )
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError(f"{path}: service.replicas must be a whole number")
    return count


def _prices(planned: Plan | FleetPlan) -> dict[tuple[str, str], float]:
    return {
        (model.name, c.option.name): c.option.price_usd_per_hour
        for model in models_of(planned)
        for c in model.candidates
    }


def _show_changes(changes: Sequence[Change]) -> None:
    for change in changes:
        cost = f"{_usd(change.cost_before_usd_per_hour)} → {_usd(change.cost_after_usd_per_hour)}"
        why = f"  ({change.reason})" if change.reason else ""
        click.echo(
            f"{change.action.value:8} {change.name}: {change.before} → {change.after}, {cost}{why}"
        )
    before = [c.cost_before_usd_per_hour for c in changes]
    known = None if None in before else sum(cost for cost in before if cost is not None)
    after = sum(c.cost_after_usd_per_hour for c in changes)
    click.echo(f"together {_usd(known)} → {_usd(after)}, at the plan's prices")


def _usd(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:,.3f}/h"


def _status_row(wanted: Wanted, live: LiveService | None) -> dict[str, Any]:
    return {
        "service": wanted.name,
        "option": wanted.option,
        "planned": wanted.replicas,
        "target": 0 if live is None else live.target,
        "ready": 0 if live is None else live.ready,
        "status": "DOWN" if live is None else live.status,
        "endpoint": None if live is None else live.endpoint,
        "replicas": [
            {
                "id": r.id,
                "status": r.status,
                "version": r.version,
                "endpoint": r.endpoint,
                "launched_at_s": r.launched_at_s,
            }
            for r in (live.replicas if live else ())
        ],
    }
