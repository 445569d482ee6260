"""One cloud's terms as packed JSON: a row each, with the part of the list that it came from and when.

Every pull dates its rows anew, so that no two tables are equal as those of prices are; packed, one is a tenth to a
twentieth of its text.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from melange_sky.commitments import Commitment
from melange_sky.pricing.commitments.sheet import term_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melange_sky.pricing.commitments.sheet import TermPart

TABLE_VERSION = 1
_LEFT_OUT = ("flags", "is_own", "cloud")
_TIMES = ("starts", "ends")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTerm:
    """A term and the part of a source's list that brought it."""

    part: str
    region: str
    row: Commitment


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """A cloud's terms after a pull, and per part how many of those before are gone (gone, before)."""

    kept: tuple[KeptTerm, ...]
    gone: dict[str, tuple[int, int]]


def merge_parts(
    before: Sequence[KeptTerm], parts: Iterable[TermPart], source: str, checked_at: str
) -> Merged:
    """Return the terms before with those of the parts that came in their place.

    A part that failed, or was not asked for, stays as it was, dates and all.
    """
    came = [part for part in parts if part.problem is None]
    kept = [term for term in before if not any(_replaces(part, term) for part in came)]
    gone: dict[str, tuple[int, int]] = {}
    for part in came:
        old = {term_key(term.row) for term in before if _replaces(part, term)}
        missing = old - {term_key(row) for row in part.rows}
        if missing:
            gone[f"{part.name} {part.region}".strip()] = (len(missing), len(old))
        kept += [
            KeptTerm(
                part=part.name,
                region=part.region,
                row=replace(
                    row,
                    source=source,
                    as_of=row.as_of or checked_at,
                    checked_at=row.checked_at or checked_at,
                ),
            )
            for row in part.rows
        ]
    return Merged(kept=tuple(kept), gone=gone)


def _replaces(part: TermPart, term: KeptTerm) -> bool:
    return part.name == term.part and part.region in ("", term.row.region)


def encode_terms(cloud: str, terms: Sequence[KeptTerm]) -> bytes:
    """Return a cloud's terms as bytes; equal terms give equal bytes."""
    rows = [_row_document(term) for term in terms]
    document = {"version": TABLE_VERSION, "cloud": cloud, "rows": sorted(rows, key=json.dumps)}
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return gzip.compress(text.encode(), mtime=0)


def decode_terms(data: bytes) -> tuple[KeptTerm, ...]:
    """Return the terms of `encode_terms`'s bytes.

    Raises ValueError, KeyError or TypeError where they are damaged or of another version.
    """
    try:
        document = json.loads(gzip.decompress(data))
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError("the terms are not packed as they were written") from error
    if not isinstance(document, dict) or document.get("version") != TABLE_VERSION:
        raise ValueError("the terms are of another version")
    return tuple(_term(document["cloud"], row) for row in document["rows"])


def _row_document(term: KeptTerm) -> dict[str, Any]:
    row = {name: value for name, value in asdict(term.row).items() if name not in _LEFT_OUT}
    for name in _TIMES:
        row[name] = row[name].isoformat() if row[name] else None
    return {"part": term.part, "asked_region": term.region, **row}


def _term(cloud: str, row: dict[str, Any]) -> KeptTerm:
    cells = dict(row)
    part, region = cells.pop("part"), cells.pop("asked_region")
    for name in _TIMES:
        cells[name] = datetime.fromisoformat(cells[name]) if cells[name] else None
    return KeptTerm(part=part, region=region, row=Commitment(cloud=cloud, **cells))
