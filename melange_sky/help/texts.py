"""What is written about every key and field: `fields/*.yaml`, one file per document."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent / "fields"

_UNITS = {
    "_ms": "ms",
    "_s": "s",
    "_rps": "requests/s",
    "_usd_per_hour": "USD/h",
    "_usd": "USD",
    "_tokens": "tokens",
    "_fraction": "fraction",
    "_gib": "GiB",
    "_bytes": "bytes",
    "_seconds": "s",
}
"""What the end of a name says about its unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldText:
    """What is written about one key or field.

    `type_text` is None where the schema says it. What is inside is documented at `like` (``.``: the top
    level), or is no promise to readers (`inner_left_out`).
    """

    path: str
    text: str
    type_text: str | None = None
    unit: str | None = None
    absent: str | None = None
    example: Any = None
    like: str | None = None
    inner_left_out: bool = False


@cache
def field_texts(document: str) -> dict[str, FieldText]:
    """Return what `fields/DOCUMENT.yaml` says, by path, in its order.

    Raises ValueError for an entry that is no such text; FileNotFoundError for an unknown document.
    """
    path = FOLDER / f"{document}.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML (texts with ': ' belong under >-): {error}") from error
    return {key: _text(key, entry, path) for key, entry in raw.items()}


def documents() -> list[str]:
    """Return the documents that have such a file."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _text(key: str, entry: Any, path: Path) -> FieldText:
    known = {"text", "type", "unit", "absent", "example", "like", "internal"}
    if not isinstance(entry, dict) or not entry.get("text") or not set(entry) <= known:
        raise ValueError(f"{path}: '{key}' needs a text, and may have {', '.join(sorted(known))}")
    return FieldText(
        path=key,
        text=str(entry["text"]).strip(),
        type_text=entry.get("type"),
        unit=entry.get("unit") or unit_of(key),
        absent=None if entry.get("absent") is None else str(entry["absent"]),
        example=entry.get("example"),
        like=entry.get("like"),
        inner_left_out=bool(entry.get("internal")),
    )


def unit_of(path: str) -> str | None:
    """Return the unit that a name ends in, None where it tells none.

    >>> unit_of("slo.tpot_ms"), unit_of("allocations[].rate_rps"), unit_of("name")
    ('ms', 'requests/s', None)
    """
    name = path.rpartition(".")[2].rstrip("[]")
    ends = [end for end in _UNITS if f"_{name}".endswith(end)]
    return _UNITS[max(ends, key=len)] if ends else None
