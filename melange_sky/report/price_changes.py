"""How prices over time are shown: what a refresh brought, snapshots, what moved, a second opinion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melange_sky.pricing.cross_check import PriceCheck
    from melange_sky.pricing.diff import Difference, PriceChange
    from melange_sky.pricing.refresh import RefreshResult
    from melange_sky.pricing.store import Entry, Manifest


def refresh_document(result: RefreshResult) -> dict[str, Any]:
    """Return what a refresh brought for `--format json`."""
    return {
        "snapshot": result.manifest.id if result.manifest else None,
        "fetched": list(result.fetched),
        "unchanged": list(result.unchanged),
        "failed": dict(result.failed),
        "not_hosted": list(result.absent),
        "terms": dict(result.terms.came),
        "terms_failed": dict(result.terms.failed),
    }


def refresh_text(result: RefreshResult) -> str:
    """Return a line per cloud that was fetched or found unchanged, and the snapshot."""
    lines = []
    for cloud in (*result.fetched, *result.unchanged):
        entry = result.pulled[cloud].entry
        state = "unchanged" if cloud in result.unchanged else "fetched"
        terms = f", {result.terms.came[cloud]} terms" if cloud in result.terms.came else ""
        lines.append(f"{cloud:<15}{state:<11}{entry.offers:>6} offers{terms}  {entry.label}")
    lines.append(f"snapshot {result.manifest.id if result.manifest else None}")
    return "".join(f"{line}\n" for line in lines)


def snapshots_document(manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    """Return the snapshots for `--format json`."""
    return [
        {
            "id": m.id,
            "created_at": m.created_at,
            "clouds": {c: e.checked_at for c, e in m.clouds.items()},
            "regions": {c: list(e.regions) for c, e in m.clouds.items() if e.regions is not None},
        }
        for m in manifests
    ]


def snapshots_text(manifests: Sequence[Manifest]) -> str:
    """Return a line per snapshot with the clouds that were pulled for it."""
    lines = []
    before: Mapping[str, Entry] = {}
    for manifest in manifests:
        fresh = [
            cloud if entry.regions is None else f"{cloud} (only {', '.join(entry.regions)})"
            for cloud, entry in manifest.clouds.items()
            if entry != before.get(cloud)
        ]
        before = manifest.clouds
        lines.append(f"{manifest.id}  {len(manifest.clouds)} clouds, pulled: {', '.join(fresh)}")
    return "".join(f"{line}\n" for line in lines)


def difference_document(difference: Difference) -> dict[str, Any]:
    """Return the moved prices for `--format json`."""
    return {
        "before": difference.before,
        "after": difference.after,
        "changes": [_change_row(change) for change in difference.changes],
        "clouds_added": list(difference.clouds_added),
        "clouds_removed": list(difference.clouds_removed),
    }


def _change_row(change: PriceChange) -> dict[str, Any]:
    return {
        "cloud": change.cloud,
        "region": change.region,
        "instance_type": change.instance_type,
        "accelerator": change.accelerator,
        "accelerator_count": None if change.accelerator_count < 0 else change.accelerator_count,
        "price": change.price,
        "before_usd_per_hour": change.before_usd_per_hour,
        "after_usd_per_hour": change.after_usd_per_hour,
        "change_fraction": change.change_fraction,
        "flags": list(change.flags),
    }


def difference_text(difference: Difference) -> str:
    """Return the moved prices, a line each."""
    count = len(difference.changes)
    lines = [f"from {difference.before} to {difference.after}: {count} prices moved"]
    lines += map(_change_line, difference.changes)
    for clouds, what in (
        (difference.clouds_added, "new in the second snapshot"),
        (difference.clouds_removed, "only in the first snapshot"),
    ):
        if clouds:
            lines.append(f"{what}: {', '.join(clouds)}")
    return "".join(f"{line}\n" for line in lines)


def _change_line(change: PriceChange) -> str:
    name = f"{change.accelerator}:{change.accelerator_count:g}"
    kind = "spot" if change.price == "spot" else "on demand"
    flags = f"  excluded: {' '.join(change.flags)}" if change.flags else ""
    return (
        f"{name:<16}{change.cloud}/{change.region} {change.instance_type}, {kind}: "
        f"{_money(change.before_usd_per_hour)} -> {_money(change.after_usd_per_hour)} $/h"
        f"{percent(change.change_fraction)}{flags}"
    )


def check_document(check: PriceCheck) -> dict[str, Any]:
    """Return the prices on which a second catalog disagrees for `--format json`."""
    rows = [
        {
            "cloud": row.offer.cloud,
            "region": row.offer.region,
            "instance_type": row.offer.instance_type,
            "price": row.kind,
            "usd_per_hour": row.ours_usd_per_hour,
            "second_usd_per_hour": row.theirs_usd_per_hour,
            "difference_fraction": row.difference_fraction,
            "source": row.offer.source,
        }
        for row in check.disagreements
    ]
    return {"compared": check.compared, "disagreements": rows}


def check_text(check: PriceCheck) -> str:
    """Return the prices on which a second catalog disagrees, a line each."""
    lines = [f"{check.compared} prices compared, {len(check.disagreements)} disagree"]
    for row in check.disagreements:
        kind = "spot" if row.kind == "spot" else "on demand"
        lines.append(
            f"{row.offer.cloud}/{row.offer.region} {row.offer.instance_type}, {kind}: "
            f"{_money(row.ours_usd_per_hour)} here, {_money(row.theirs_usd_per_hour)} $/h in gpuhunt"
            f"{percent(row.difference_fraction)}"
        )
    return "".join(f"{line}\n" for line in lines)


def _money(value: float | None) -> str:
    return "none" if value is None else f"{value:.4f}"


def percent(fraction: float | None) -> str:
    """Return a change as `` (+3.0%)``, nothing where it is unknown."""
    return "" if fraction is None else f" ({fraction:+.1%})"
