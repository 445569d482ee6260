"""A trace in Apache Parquet, read row group by row group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, clip
from melange_sky.traces.records import flattened
from melange_sky.traces.sample import SAMPLE_ROWS, Column, Sample, sample_of
from melange_sky.traces.table import Chunk

if TYPE_CHECKING:
    import polars as pl

    from melange_sky.traces.source import Source

_ROWS = 1 << 19
"""Rows read at once: each reading decodes the row groups that it touches as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetTable:
    """Apache Parquet."""

    source: Source

    @property
    def kind(self) -> str:
        """What it is, for people."""
        return "Parquet"

    @property
    def begins(self) -> str:
        """The file."""
        return str(self.source.path)

    def sample(self) -> Sample:
        """Return its first rows."""
        rows = self._read(lambda frame: frame.head(SAMPLE_ROWS)).to_dicts()
        return sample_of([flattened(row) for row in rows])

    def chunks(self, columns: Sequence[Column], numeric: Sequence[bool]) -> Iterator[Chunk]:
        """Yield all rows; numbers, text and times as they are stored, anything else as text."""
        import polars as pl

        wanted = [_cell(column.path).alias(str(n)) for n, column in enumerate(columns)]
        rows = int(self._read(lambda frame: frame.select(pl.len())).item())
        for start in range(0, rows, _ROWS):
            frame = self._read(partial(_rows_from, start=start, wanted=wanted))
            yield Chunk(frame=_plain(frame), where=partial(_row_text, start))

    def _read(self, what: Callable[[pl.LazyFrame], pl.LazyFrame]) -> pl.DataFrame:
        import polars as pl

        try:
            return what(pl.scan_parquet(self.source.path)).collect()
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"{self.source.path}: cannot be read as Parquet ({clip(str(error))})"
            ) from None


def _rows_from(lazy: pl.LazyFrame, start: int, wanted: list[pl.Expr]) -> pl.LazyFrame:
    return lazy.slice(start, _ROWS).select(wanted)


def _row_text(start: int, row: int) -> str:
    return f"row {start + row + 1}"


def _cell(path: tuple[str, ...]) -> pl.Expr:
    import polars as pl

    found = pl.col(path[0])
    for key in path[1:]:
        found = found.struct.field(key)
    return found


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    def kept(name: str, kind: pl.DataType) -> pl.Expr:
        if kind.is_numeric():
            return pl.col(name).cast(pl.Float64)
        if kind in (pl.String, pl.Date) or isinstance(kind, pl.Datetime):
            return pl.col(name)
        if isinstance(kind, pl.List):
            return pl.format("[{}]", pl.col(name).cast(pl.List(pl.String)).list.join(",")).alias(
                name
            )
        return pl.col(name).cast(pl.String)

    return frame.select(kept(name, kind) for name, kind in frame.schema.items())
