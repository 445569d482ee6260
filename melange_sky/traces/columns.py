"""The columns of a trace that are read, where in them each role lies, and what their cells hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.traces.block import HashIds
from melange_sky.traces.roles import Mapping
from melange_sky.traces.sample import Column
from melange_sky.traces.stamps import number
from melange_sky.traces.tokens import MAX_TOKENS

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns that are read, and where in them each role lies."""

    all: tuple[Column, ...]
    numeric: tuple[bool, ...]
    time: int | None
    input: tuple[int, ...]
    added: tuple[int, ...]
    output: tuple[int, ...]
    status: tuple[int, ...]
    session: int | None
    hash_ids: int | None

    @classmethod
    def of(cls, mapping: Mapping, extras: Sequence[str]) -> Columns:
        """Return those that a mapping names, of `extras` only what is asked for."""
        session = mapping.session if "session" in extras else ()
        hashes = mapping.hash_ids if "hash_ids" in extras else ()
        groups = (mapping.time, mapping.input, mapping.added, mapping.output, mapping.status)
        columns = tuple(dict.fromkeys(c for group in (*groups, session, hashes) for c in group))
        texts = set(mapping.status) | set(session) | set(hashes)

        def places(group: tuple[Column, ...]) -> tuple[int, ...]:
            return tuple(map(columns.index, group))

        return cls(
            all=columns,
            numeric=tuple(c not in texts and _is_plain_number(c) for c in columns),
            time=next(iter(places(mapping.time)), None),
            input=places(mapping.input),
            added=places(mapping.added),
            output=places(mapping.output),
            status=places(mapping.status),
            session=next(iter(places(session)), None),
            hash_ids=next(iter(places(hashes)), None),
        )


def is_number(column: Column) -> bool:
    """Return whether nearly all of the column's sample are numbers, and no dates such as 20240131235959."""
    given = column.present[:200]
    is_compact = all(
        isinstance(value, str | int)
        and str(value).strip()[:2] in ("19", "20")
        and len(str(value).strip()) == 14
        for value in given
    )
    return not is_compact and sum(number(value) is not None for value in given) >= 0.9 * len(given)


def _is_plain_number(column: Column) -> bool:
    """Return whether a parser of plain numbers reads the column's sample."""
    if column.present and not is_number(column):
        return False
    return all(
        (isinstance(value, int | float) and not isinstance(value, bool))
        or (isinstance(value, str) and value.replace(".", "", 1).isdecimal())
        for value in column.present
    )


def are_counts(values: NDArray[np.float64]) -> bool:
    """Return whether all of these are whole numbers of tokens."""
    if not len(values):
        return True
    if not (values.min() >= 0 and values.max() <= MAX_TOKENS):  # false with a NaN among them
        return False
    return bool((values.astype(np.int32) == values).all())


def texts_of(frame: pl.DataFrame, place: int | None, rows: Any) -> tuple[str | None, ...] | None:
    """Return the cells of a column as texts, None where no column is read."""
    import polars as pl

    if place is None:
        return None
    cells = frame[str(place)].cast(pl.String)
    return tuple((cells if isinstance(rows, slice) else cells[rows]).to_list())


def hash_ids_of(frame: pl.DataFrame, place: int | None, rows: Any) -> HashIds | None:
    """Return the cells of a column as lists of block ids, None where no column is read."""
    import polars as pl

    if place is None:
        return None
    text = frame[str(place)].cast(pl.String)
    cells = (text if isinstance(rows, slice) else text[rows]).fill_null("[]")
    lists = cells.str.json_decode(pl.List(pl.Int64))
    starts = np.concatenate([[0], np.cumsum(lists.list.len().fill_null(0).to_numpy())])
    ids = lists.explode().drop_nulls().to_numpy()
    return HashIds(ids=ids.astype(np.int64), starts=starts.astype(np.int64))
