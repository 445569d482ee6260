"""`prices list`, `prices refresh`, `prices diff`."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.accelerators import accelerator_table
from melange_sky.cli.common import (
    echo_json,
    format_option,
    is_offline,
    offline_option,
    refresh_progress,
)
from melange_sky.cli.prices_diff import diff_plan, echo_check, echo_diff
from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.names.clouds import HOSTED_CLOUDS, check_clouds, split_infra
from melange_sky.offers import Offer, gpu_of
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.pricing.chain import by_reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.pricing.refresh import RefreshResult
    from melange_sky.pricing.store import Entry

accelerators_option = click.option(
    "--accelerators", default="", metavar="A,B:N", help="Only these (NAME or NAME:COUNT)."
)
infra_option = click.option(
    "--infra", default="", metavar="CLOUD[/REGION],…", help="Only these clouds or regions."
)
offers_option = click.option(
    "--offers",
    "offers_csv",
    type=click.Path(path_type=Path),
    help="A CSV of your own offers; they replace equal instances of the catalogs.",
)


@click.group()
def prices() -> None:
    """List, refresh and compare instance prices."""


@prices.command("list")
@accelerators_option
@infra_option
@offers_option
@click.option(
    "--as-of", metavar="DATE|ID", help="The snapshot of that date (or id), not the newest."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
)
@offline_option
def list_(
    accelerators: str,
    infra: str,
    offers_csv: Path | None,
    as_of: str | None,
    output_format: str,
    offline: bool,
) -> None:
    """Show the offers that a plan would see, blocked ones included. Opens no socket."""
    del offline  # listing never fetches; the option is taken so that scripts may always give it
    query = OfferQuery(
        infra=split_infra(infra),
        accelerators=_split(accelerators),
        offline=is_offline(True),
        offers_csv=offers_csv,
        as_of=as_of,
    )
    book = load_offers(query)
    for warning in book.warnings:
        click.echo(f"warning: {warning.message}", err=True)
    if output_format == "json":
        echo_json([offer_row(offer) for offer in book.offers])
    elif output_format == "csv":
        _echo_csv(book.offers)
    else:
        _echo_table(book.offers)


@prices.command()
@infra_option
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="NAME",
    help="Also ask a provider's own API: aws, azure, gcp, runpod, vast (repeat for more).",
)
@click.option(
    "--deadline",
    type=click.FloatRange(0.1, 3600),
    default=40.0,
    show_default=True,
    help="Longest that one file may take, in seconds.",
)
@format_option
@offline_option
def refresh(
    infra: str, sources: tuple[str, ...], deadline: float, output_format: str, offline: bool
) -> None:
    """Pull prices now; ends within a minute whatever a server does.

    Exits 0 if at least one cloud was fetched or found unchanged (failed ones are named), else 4.
    """
    if is_offline(offline):
        raise InputError(
            "a refresh needs the network, which --offline (MELANGE_SKY_OFFLINE) forbids"
        )
    pairs = split_infra(infra)
    check_clouds(tuple(cloud for cloud, _ in pairs))
    # aiohttp is not wanted by the other commands
    from melange_sky.pricing.apis.sources import find_apis
    from melange_sky.pricing.refresh import RefreshOptions
    from melange_sky.pricing.refresh import refresh as pull
    from melange_sky.pricing.store import Store

    apis = find_apis(sources, pairs)
    with refresh_progress() as show:
        clouds = tuple(dict.fromkeys(cloud for cloud, _ in pairs))
        options = RefreshOptions(
            clouds=clouds if clouds or not apis else tuple(api.cloud for api in apis),
            apis=apis,
            deadline_s=deadline,
            on_event=show,
        )
        result = pull(Store(), options)
    _report_refresh(result, output_format)


def _report_refresh(result: RefreshResult, output_format: str) -> None:
    for clouds, reason in by_reason(result.failed):
        click.echo(f"warning: no new prices of {', '.join(clouds)}: {reason}", err=True)
    for cloud, counts in result.shrunk.items():
        click.echo(f"warning: the catalog of {cloud} has shrunk: {counts}", err=True)
    absent = [cloud for cloud in result.absent if cloud in HOSTED_CLOUDS]
    if absent and result.any_good:
        click.echo(f"note: no hosted catalog of {', '.join(absent)} (HTTP 404)", err=True)
    if result.store_problem is not None:
        raise SourceUnavailableError(
            f"prices were fetched and could not be kept: {result.store_problem}"
        )
    if not result.any_good:
        raise SourceUnavailableError(
            "no prices could be fetched; what was fetched before stays (`prices list` shows it)"
        )
    snapshot = result.manifest.id if result.manifest else None
    if output_format == "json":
        echo_json(
            {
                "snapshot": snapshot,
                "fetched": list(result.fetched),
                "unchanged": list(result.unchanged),
                "failed": dict(result.failed),
                "not_hosted": list(result.absent),
            }
        )
        return
    for cloud in (*result.fetched, *result.unchanged):
        entry = result.pulled[cloud].entry
        state = "unchanged" if cloud in result.unchanged else "fetched"
        click.echo(f"{cloud:<15}{state:<11}{entry.offers:>6} offers  {entry.label}")
    click.echo(f"snapshot {snapshot}")


@prices.command()
@infra_option
@click.option(
    "--deadline",
    type=click.FloatRange(0.1, 3600),
    default=45.0,
    show_default=True,
    help="Longest that the second catalog may take, in seconds.",
)
@format_option
@offline_option
def check(infra: str, deadline: float, output_format: str, offline: bool) -> None:
    """Compare the prices at hand with gpuhunt's, a catalog collected apart from SkyPilot's.

    Tells those over 15 % apart. Needs the extra `melange-sky[gpuhunt]`.
    """
    if is_offline(offline):
        raise InputError("the second catalog needs the network, which --offline forbids")
    from melange_sky.pricing.cross_check import compare_prices, fetch_gpuhunt

    book = load_offers(OfferQuery(infra=split_infra(infra), offline=True))
    for warning in book.warnings:
        click.echo(f"warning: {warning.message}", err=True)
    second = fetch_gpuhunt({offer.cloud for offer in book.offers}, deadline)
    echo_check(*compare_prices(book.offers, second), output_format)


@prices.command()
@format_option
def snapshots(output_format: str) -> None:
    """List what was fetched, oldest first: the ids that `--as-of` and `diff` take."""
    from melange_sky.pricing.store import Store

    store = Store()
    rows = [store.find(snapshot_id) for snapshot_id in store.ids()]
    if output_format == "json":
        echo_json(
            [
                {
                    "id": m.id,
                    "created_at": m.created_at,
                    "clouds": {c: e.checked_at for c, e in m.clouds.items()},
                    "regions": {
                        c: list(e.regions) for c, e in m.clouds.items() if e.regions is not None
                    },
                }
                for m in rows
            ]
        )
        return
    before: Mapping[str, Entry] = {}
    for manifest in rows:
        fresh = [
            cloud if entry.regions is None else f"{cloud} (only {', '.join(entry.regions)})"
            for cloud, entry in manifest.clouds.items()
            if entry != before.get(cloud)
        ]
        before = manifest.clouds
        click.echo(f"{manifest.id}  {len(manifest.clouds)} clouds, pulled: {', '.join(fresh)}")
    if not rows:
        click.echo("nothing was ever fetched", err=True)


@prices.command()
@click.argument("before", required=False)
@click.argument("after", required=False)
@click.option(
    "--plan",
    "plan_json",
    type=click.Path(path_type=Path),
    help="What a saved plan costs now, and the cheapest mix now.",
)
@click.option(
    "--spec",
    type=click.Path(path_type=Path),
    help="With --plan: plan this spec anew, so that its limits hold.",
)
@accelerators_option
@infra_option
@offers_option
@click.option(
    "--min-change",
    type=click.FloatRange(0, 1),
    default=0.0,
    help="Only prices that moved by this fraction.",
)
@format_option
@offline_option
def diff(before: str | None, after: str | None, output_format: str, **asked: Any) -> None:
    """Show what moved since the last pull, between two snapshots, or since a plan.

    BEFORE and AFTER are snapshot ids, dates, or `embedded`; by default the last pull but one and the
    last. Opens no socket: run `prices refresh` first for today's prices.
    """
    if asked["plan_json"] is not None:
        if before is not None:
            raise InputError("--plan compares with the newest prices; give no snapshots with it")
        diff_plan(asked["plan_json"], asked["spec"], asked["offers_csv"], output_format)
        return
    if asked["spec"] is not None or asked["offers_csv"] is not None:
        raise InputError("--spec and --offers need --plan")
    from melange_sky.pricing.diff import diff_snapshots
    from melange_sky.pricing.select import Selection

    pairs = split_infra(asked["infra"])
    check_clouds(tuple(cloud for cloud, _ in pairs))
    selection = Selection(infra=pairs, accelerators=_split(asked["accelerators"]))
    echo_diff(diff_snapshots(before, after, selection), asked["min_change"], output_format)


def _split(accelerators: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in accelerators.split(",") if part.strip())


COLUMNS = (
    "cloud",
    "region",
    "instance_type",
    "accelerator",
    "accelerator_count",
    "price_usd_per_hour",
    "spot_usd_per_hour",
    "source",
    "as_of",
    "flags",
)


def offer_row(offer: Offer) -> dict[str, Any]:
    """Return the JSON form of an offer (interface: `prices list --format json`)."""
    count = offer.accelerator_count
    spec = accelerator_table().get(gpu_of(offer))
    return {
        "cloud": offer.cloud,
        "region": offer.region,
        "instance_type": offer.instance_type,
        "accelerator": offer.accelerator,
        "accelerator_count": None
        if math.isnan(count)
        else int(count)
        if count == int(count)
        else count,
        "price_usd_per_hour": offer.price_usd_per_hour,
        "spot_usd_per_hour": offer.spot_usd_per_hour,
        "source": offer.source,
        "as_of": offer.as_of,
        "flags": [
            {
                "code": f.code,
                "severity": f.severity.value,
                "touches": f.touches.value,
                "message": f.message,
            }
            for f in offer.flags
        ],
        "vcpus": offer.vcpus,
        "memory_gib": offer.memory_gib,
        "device_memory_gib": spec.memory_gib if spec else None,
        "commitments": [
            {"kind": c.kind, "term_years": c.term_years, "usd_per_hour": c.usd_per_hour}
            for c in offer.commitments
        ],
    }


def _echo_csv(offers: tuple[Offer, ...]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for offer in offers:
        row = offer_row(offer)
        row["flags"] = " ".join(flag.code for flag in offer.flags)
        writer.writerow(["" if row[c] is None else row[c] for c in COLUMNS])


def _echo_table(offers: tuple[Offer, ...]) -> None:
    """Print aligned columns; plain text is faster than rich for thousands of rows."""
    header = (
        "ACCELERATOR",
        "CLOUD",
        "REGION",
        "INSTANCE TYPE",
        "$/h",
        "SPOT $/h",
        "AS OF",
        "FLAGS",
    )
    rows = [header]
    for o in offers:
        name = f"{o.accelerator}:{o.accelerator_count:g}"
        flags = " ".join(
            f"{f.code}" if f.severity.value == "warn" else f"{f.code}!" for f in o.flags
        )
        rows.append(
            (
                name,
                o.cloud,
                o.region,
                o.instance_type,
                _money(o.price_usd_per_hour),
                _money(o.spot_usd_per_hour),
                (o.as_of or "unknown")[:16],
                flags,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header) - 1)]
    for row in rows:
        cells = [
            cell.rjust(width) if i in (4, 5) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        click.echo("  ".join([*cells, row[-1]]).rstrip())
    sources = sorted({o.source for o in offers})
    click.echo(f"\n{len(offers)} offers; '!' marks what keeps a price out of plans.", err=True)
    for source in sources[:20]:
        click.echo(f"source: {source}", err=True)


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
