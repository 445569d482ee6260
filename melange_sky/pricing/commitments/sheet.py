"""What a source's terms come to: one part of its list at a time, each of which can fail by itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.commitments import Commitment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class TermPart:
    """The terms of one part of a source's list: `rows`, or the `problem` for which there are none.

    A part that came replaces what an earlier pull of the same `name` and `region` brought (empty: all regions);
    one with a problem leaves it as it was.
    """

    name: str
    region: str = ""
    rows: tuple[Commitment, ...] = ()
    problem: str | None = None

    def priced(self, listed: Mapping[tuple[str, str], float]) -> TermPart:
        """Return it with each row beside what its instance costs on demand, by (region, instance type)."""
        rows = (
            replace(row, list_usd_per_hour=listed.get((row.region, row.instance_type)))
            for row in self.rows
        )
        return replace(self, rows=tuple(rows))

    def by_region(self, regions: Sequence[str]) -> tuple[TermPart, ...]:
        """Return one part per region, with the rows of each; so that only those regions are replaced."""
        return tuple(
            replace(self, region=region, rows=tuple(r for r in self.rows if r.region == region))
            for region in regions
        )


@dataclass(slots=True, kw_only=True)
class TermSheet:
    """Collects terms. Of several rows for one thing the cheapest stays, as of prices on demand.

    Source, dates and flags are filled in where the terms are kept; a price that is not above zero is flagged there.
    """

    cloud: str
    _rows: dict[tuple[object, ...], Commitment] = field(default_factory=dict)

    def add(self, row: Commitment) -> None:
        """Take one term in."""
        key = term_key(row)
        held = self._rows.get(key)
        if held is None or row.all_in_usd_per_hour < held.all_in_usd_per_hour:
            self._rows[key] = row

    def rows(self) -> tuple[Commitment, ...]:
        """Return the terms, those of a region and an instance type together."""
        return tuple(
            sorted(
                self._rows.values(),
                key=lambda r: (r.region, r.instance_type, r.product, r.term_hours),
            )
        )


def term_key(row: Commitment) -> tuple[object, ...]:
    """Return what tells one term from another: everything but its price, source and dates."""
    window = (row.starts, row.ends)
    return (
        row.cloud, row.region, row.instance_type, row.product, row.kind, row.term_hours, *window,
    )  # fmt: skip
