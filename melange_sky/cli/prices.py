"""`prices list`, `terms`, `refresh`, `check`, `snapshots`, `diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from melange_sky.cli.common import (
    echo_json,
    echo_warnings,
    format_option,
    offers_option,
    offline_option,
    refresh_progress,
    time_limit_option,
)
from melange_sky.errors import InputError
from melange_sky.planner import prices as work

if TYPE_CHECKING:
    from melange_sky.planner.reprice import PlanDifference

accelerators_option = click.option(
    "--accelerators",
    default="",
    metavar="A,B:N",
    help="Only these accelerators (NAME or NAME:COUNT).",
)
infra_option = click.option(
    "--infra", default="", metavar="CLOUD[/REGION],…", help="Only these clouds or regions."
)


table_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
)


@click.group()
def prices() -> None:
    """List, refresh and compare instance prices."""


@prices.command("list")
@accelerators_option
@infra_option
@offers_option
@click.option(
    "--spec", type=click.Path(path_type=Path), help="With the offers that this spec states, too."
)
@click.option(
    "--as-of", metavar="DATE|ID", help="The snapshot of that date (or id), not the newest."
)
@table_option
@offline_option
def list_(
    accelerators: str,
    infra: str,
    offers: Path | None,
    spec: Path | None,
    as_of: str | None,
    output_format: str,
    offline: bool,
) -> None:
    """Show the offers that a plan would see, blocked ones included. Opens no socket."""
    del offline  # listing never fetches; the option is taken so that scripts may always give it
    from melange_sky.report import offers as report

    book = work.list_prices(
        accelerators=accelerators, infra=infra, offers=offers, spec=spec, as_of=as_of
    )
    echo_warnings(book.warnings)
    if output_format == "json":
        echo_json([report.offer_row(offer) for offer in book.offers])
    elif output_format == "csv":
        click.echo(report.offers_csv(book.offers), nl=False)
    else:
        click.echo(report.offers_table(book.offers), nl=False)
        click.echo(report.offers_note(book.offers), nl=False, err=True)


@prices.command()
@accelerators_option
@infra_option
@offers_option
@click.option(
    "--commitments",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="With these negotiated terms, which replace listed ones.",
)
@table_option
@offline_option
def terms(
    accelerators: str,
    infra: str,
    offers: Path | None,
    commitments: Path | None,
    output_format: str,
    offline: bool,
) -> None:
    """Show what clouds ask for a promised term, beside on demand. Opens no socket.

    Reserved instances, savings plans, committed use and capacity blocks: discount, the share of hours from which
    on a term pays, source, date and doubts. `prices refresh --source` pulls them anew.
    """
    del offline  # nothing is fetched; the option is taken so that scripts may always give it
    from melange_sky.report import terms as report

    book = work.list_terms(
        accelerators=accelerators, infra=infra, offers=offers, commitments=commitments
    )
    echo_warnings(book.warnings)
    if output_format == "json":
        echo_json([report.term_row(quote) for quote in book.quotes])
    elif output_format == "csv":
        click.echo(report.terms_csv(book.quotes), nl=False)
    else:
        click.echo(report.terms_table(book.quotes), nl=False)
        click.echo(report.terms_note(book.quotes), nl=False, err=True)


@prices.command()
@click.option("--context", metavar="NAME", help="Of kubeconfig (default: the current one).")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="New file to write (default: stdout).",
)
def cluster(context: str | None, output: Path | None) -> None:
    """List what SkyPilot sees in a Kubernetes cluster, as offers whose prices you fill in.

    Asks SkyPilot's API server, as `sky gpus list --infra k8s` does, which starts a local one where none runs.
    """
    if output is None:
        click.echo(work.cluster_offers(context), nl=False)
        return
    work.write_cluster_offers(output, context)
    click.echo(f"wrote {output}: fill in price_usd_per_hour", err=True)


@prices.command()
@infra_option
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME",
    help="Also fetch prices and terms from a provider's own API: aws, azure, cyclenerd (of gcp), gcp, runpod, vast. Repeatable.",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(0.1, 3600),
    default=work.REFRESH_DEADLINE_S,
    show_default=True,
    help="Seconds that one file may take.",
)
@format_option
@offline_option
def refresh(
    infra: str, sources: tuple[str, ...], deadline_s: float, output_format: str, offline: bool
) -> None:
    """Pull prices now; ends within a minute whatever a server does.

    Exits 0 if at least one cloud was fetched or found unchanged (failed ones are named), else 4.
    """
    from melange_sky.report import price_changes as report

    result = work.refresh_prices(
        infra=infra,
        sources=sources,
        deadline_s=deadline_s,
        offline=offline,
        display=refresh_progress,
    )
    for line in work.refresh_warnings(result):
        click.echo(line, err=True)
    work.require_prices(result)
    if output_format == "json":
        echo_json(report.refresh_document(result))
    else:
        click.echo(report.refresh_text(result), nl=False)


@prices.command()
@infra_option
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(0.1, 3600),
    default=work.CHECK_DEADLINE_S,
    show_default=True,
    help="Seconds that the second catalog may take.",
)
@format_option
@offline_option
def check(infra: str, deadline_s: float, output_format: str, offline: bool) -> None:
    """Compare these prices with gpuhunt's catalog, which is collected independently of SkyPilot's.

    Shows those over 15 % apart. Needs the extra `melange-sky[gpuhunt]`.
    """
    from melange_sky.report import price_changes as report

    checked = work.check_prices(infra=infra, deadline_s=deadline_s, offline=offline)
    echo_warnings(checked.book.warnings)
    if output_format == "json":
        echo_json(report.check_document(checked))
    else:
        click.echo(report.check_text(checked), nl=False)


@prices.command()
@format_option
def snapshots(output_format: str) -> None:
    """List what was fetched, oldest first: the ids that `--as-of` and `diff` take."""
    from melange_sky.report import price_changes as report

    manifests = work.price_snapshots()
    if output_format == "json":
        echo_json(report.snapshots_document(manifests))
        return
    click.echo(report.snapshots_text(manifests), nl=False)
    if not manifests:
        click.echo("no prices have been fetched yet", err=True)


@prices.command()
@click.argument("before", required=False)
@click.argument("after", required=False)
@click.option(
    "--plan",
    type=click.Path(path_type=Path),
    help="Show what a saved plan costs now, and the cheapest mix now.",
)
@click.option(
    "--spec",
    type=click.Path(path_type=Path),
    help="With --plan: replan this spec under its own limits.",
)
@accelerators_option
@infra_option
@offers_option
@click.option(
    "--min-change",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Only prices that moved by at least this fraction.",
)
@time_limit_option("With --plan: seconds for finding the cheapest mix now.")
@format_option
@offline_option
def diff(
    before: str | None,
    after: str | None,
    plan: Path | None,
    spec: Path | None,
    accelerators: str,
    infra: str,
    offers: Path | None,
    min_change: float,
    time_limit_s: float,
    output_format: str,
    offline: bool,
) -> None:
    """Show what moved since the last pull, between two snapshots, or since a plan.

    BEFORE and AFTER are snapshot ids, dates, or `embedded`; by default the last pull but one and the
    last. Opens no socket: run `prices refresh` first for today's prices.
    """
    del offline  # nothing is fetched; the option is taken so that scripts may always give it
    if plan is not None:
        if before is not None:
            raise InputError("--plan compares with the newest prices; give no snapshots with it")
        from melange_sky.planner.plan_files import load_plan
        from melange_sky.planner.reprice import diff_plan

        moved_plan = diff_plan(load_plan(plan), spec=spec, offers=offers, time_limit_s=time_limit_s)
        _show_plan(moved_plan, output_format)
        return
    if spec is not None or offers is not None:
        raise InputError("--spec and --offers need --plan")
    from melange_sky.report import price_changes as report

    moved = work.diff_prices(
        before, after, accelerators=accelerators, infra=infra, min_change=min_change
    )
    if output_format == "json":
        echo_json(report.difference_document(moved))
    else:
        click.echo(report.difference_text(moved), nl=False)


def _show_plan(moved: PlanDifference, output_format: str) -> None:
    from melange_sky.report import repricing as report

    echo_warnings(moved.warnings)
    if output_format == "json":
        echo_json(report.repricing_document(moved))
        return
    click.echo(report.repricing_text(moved), nl=False)
    click.echo(report.repricing_note(moved), nl=False, err=True)
