"""The key `offers`: one's own prices, as files in the spec's folder or as rows in the spec itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.accelerators import accelerator_name, canonical_accelerator
from melange_sky.names.clouds import read_infra
from melange_sky.offers import (
    MORE_OFFER_COLUMNS,
    OFFER_COLUMNS,
    OwnOffers,
    parse_accelerator,
)

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.spec.problems import Problems
    from melange_sky.spec.yaml_source import KeyPath

KEY = "offers"

_KNOWN = (*OFFER_COLUMNS, *MORE_OFFER_COLUMNS, "infra", "accelerators")
_TEXTS = frozenset({"cloud", "region", "instance_type", "accelerator", "source", "as_of"})


def read_offers(raw: Any, folder: Path, problems: Problems) -> tuple[OwnOffers, ...]:
    """Return the sources in their order; problems are noted at their keys.

    A row has the columns of a CSV, or SkyPilot's words for them: `infra` for cloud and region,
    `accelerators` (NAME:COUNT) for accelerator and count. Files are read with the other prices.
    """
    if raw is None:
        return ()
    one = not isinstance(raw, list)
    if not raw:
        problems.add((KEY,), "must not be empty; leave it out to use list prices alone")
    sources = []
    for i, item in enumerate([raw] if one else raw):
        at: KeyPath = (KEY,) if one else (KEY, i)
        if isinstance(item, str):
            sources.append(_file(item, folder, at, problems))
        elif isinstance(item, dict):
            row = _Row(item, at, problems).read()
            if row is not None:
                sources.append(OwnOffers(where=problems.where(at), row=row))
        else:
            problems.add(at, "must be a CSV file, or a row such as {infra: kubernetes, …}")
    return tuple(source for source in sources if source is not None)


def _file(text: str, folder: Path, at: KeyPath, problems: Problems) -> OwnOffers | None:
    path = folder / text
    if not text or "\0" in text or not path.exists():
        problems.add(at, f"no file at '{clip(text, 200)}' (relative to the spec's folder)")
        return None
    return OwnOffers(where=problems.where(at), file=path)


class _Row:
    """Reads one row; what is wrong with it is noted at its keys."""

    def __init__(self, item: dict[str, Any], at: KeyPath, problems: Problems) -> None:
        self.cells: dict[str, Any] = {k: v for k, v in item.items() if v is not None}
        self.at = at
        self.problems = problems
        self.is_good = True

    def read(self) -> tuple[tuple[str, str], ...] | None:
        for key in self.cells:
            if key not in _KNOWN:
                hint = did_you_mean(key, _KNOWN) or f"; known: {', '.join(_KNOWN)}"
                self.refuse(key, f"unknown column '{clip(key)}'{hint}")
        self._infra()
        self._accelerators()
        missing = [
            name for name in OFFER_COLUMNS if name != "region" and self.cells.get(name) is None
        ]
        for name in missing if self.is_good else ():
            other = {"cloud": " (or infra)", "accelerator": " (or accelerators)"}.get(name, "")
            self.problems.add(self.at, f"lacks '{name}'{other}")
            self.is_good = False
        pairs = tuple((key, self._text(key, value)) for key, value in self.cells.items())
        return pairs if self.is_good else None

    def refuse(self, key: str, what: str) -> None:
        self.problems.add((*self.at, key), what)
        self.is_good = False

    def _infra(self) -> None:
        text = self.cells.pop("infra", None)
        if text is None:
            return
        try:
            place = read_infra(str(text))
        except InputError as error:
            self.refuse("infra", str(error))
            return
        self.cells |= {"cloud": place.cloud, "region": place.region or ""}

    def _accelerators(self) -> None:
        given = self.cells.pop("accelerators", None)
        if isinstance(given, dict) and len(given) == 1:
            ((name, number),) = given.items()
            given = f"{name}:{number}"
        if given is not None:
            try:
                name, count = parse_accelerator(str(given))
                self.cells |= {"accelerator": name, "accelerator_count": count or 1}
            except ValueError:
                self.refuse("accelerators", f"'{clip(str(given))}' must be NAME or NAME:COUNT")
                return
        name = self.cells.get("accelerator")
        if not isinstance(name, str):
            return
        known = canonical_accelerator(name, str(self.cells.get("cloud", "")))
        try:
            accelerator_name(known)
        except InputError as error:
            self.refuse("accelerator" if given is None else "accelerators", str(error))
            return
        # the names of one's own instances are nobody's but one's own
        count = self.cells.get("accelerator_count")
        if self.cells.get("instance_type") is None and isinstance(count, int | float):
            self.cells["instance_type"] = f"{known.lower()}-{count:g}"

    def _text(self, key: str, value: Any) -> str:
        if key in _TEXTS and isinstance(value, str):
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key not in _TEXTS and is_number and math.isfinite(value):
            return repr(value)
        if key in self.cells and key in _KNOWN:
            self.refuse(key, "must be text" if key in _TEXTS else "must be a number")
        return ""
