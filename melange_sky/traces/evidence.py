"""The numbers of a log's times as they are read: from all of them its unit is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.traces.sample import Column, Sample, words_of
from melange_sky.traces.stamps import number
from melange_sky.traces.units import Numbers, Unit, unit_by_evidence

if TYPE_CHECKING:
    import polars as pl

    from melange_sky.traces.source import Source

FEWEST_BYTES = 1 << 22
"""Size from which a file is read in its likely unit before that is proven; a smaller one is read twice."""

_BYTES_PER_ROW = 8
"""Of a packed or columnar file, whose lines cannot be counted: a wrong guess costs a second reading."""


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Times that count from a zero of their own. `first` are those of the sample, `usual` the unit that logs with
    these columns have; `name` and `where` are for messages."""

    first: Numbers
    usual: str | None
    name: str
    where: str
    seen: Numbers | None = None

    def add(self, cells: pl.Series) -> None:
        """Take in cells of any kind; those that are no number say nothing."""
        import polars as pl

        found = cells.cast(pl.Float64, strict=False).drop_nulls().drop_nans()
        if not len(found):
            return
        before = self.seen or Numbers(
            rows=0,
            low=self.first.low,
            high=self.first.high,
            has_fractions=self.first.has_fractions,
        )
        self.seen = Numbers(
            rows=before.rows + len(found),
            low=min(before.low, float(found.min())),
            high=max(before.high, float(found.max())),
            has_fractions=before.has_fractions or bool((found % 1 != 0).any()),
        )

    def unit(self) -> Unit:
        """Return the unit that all of them prove; InputError that asks where more than one can be."""
        return unit_by_evidence(self.seen or self.first, self.usual, self.name, self.where)

    def likely_unit(self, source: Source) -> Unit | None:
        """Return the unit were the whole file as it begins; None where that does not tell, or the file is small."""
        size = source.path.stat().st_size
        if size < FEWEST_BYTES:
            return None
        lines = source.head.count(b"\n")
        is_plain = source.packing is None and lines > 0
        per_row = len(source.head) / lines if is_plain else _BYTES_PER_ROW
        times = max(1.0, size / per_row / self.first.rows)
        whole = Numbers(
            rows=int(self.first.rows * times),
            low=self.first.low,
            high=self.first.low + self.first.span * times,
            has_fractions=self.first.has_fractions,
        )
        try:
            return unit_by_evidence(whole, self.usual, self.name, self.where)
        except InputError:
            return None


def numbers_of(column: Column) -> Numbers:
    """Return what a column of numbers holds in the sample."""
    found = [value for value in map(number, column.present) if value is not None]
    return Numbers(
        rows=len(found), low=min(found), high=max(found), has_fractions=any(v % 1 for v in found)
    )


def usual_unit(sample: Sample) -> str | None:
    """Return the unit in which logs with these columns are published: Mooncake's in ms, BurstGPT's in s."""
    names = {" ".join(words_of(column.path[-1])) for column in sample.columns}
    if {"input length", "output length"} <= names or "hash ids" in names:
        return "ms"
    if {"request tokens", "response tokens"} <= names:
        return "s"
    return None
