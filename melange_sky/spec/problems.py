"""Collect every problem of a document and tell each in one line: file, line, key path, what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import ValidationError

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.plans import place_of, reason_of
from melange_sky.spec.key_hints import unknown_key
from melange_sky.spec.schema import SECTIONS
from melange_sky.spec.validators import Section, known_keys, validate

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from melange_sky.spec.yaml_source import Document, KeyPath

MAX_TOLD = 50

_PLAIN = re.compile(r"[A-Za-z_][\w-]*\Z")
_MUST = {
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "string_type": "must be text (put it in quotes)",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "dataclass_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number",
    "missing": "is missing",
}


def path_text(path: KeyPath) -> str:
    """Return a key path for people.

    >>> path_text(("models", 0, "slo", "tpot_ms")), path_text(("limits", "g5.xlarge"))
    ('models[0].slo.tpot_ms', "limits['g5.xlarge']")
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN.match(part) and len(part) <= 60:
            text += f".{part}" if text else part
        else:
            text += f"['{clip(part)}']"
    return text


class Problems:
    """The problems found so far in one file."""

    def __init__(self, file: Path, document: Document) -> None:
        self.file = file
        self.document = document
        self._found: list[tuple[int, str]] = []
        for path, line, what in document.problems:
            self._note(line, path, what)

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: KeyPath, what: str) -> None:
        """Note one problem at `path`, shown with its line."""
        self._note(self.document.line(path) or 0, path, what)

    def where(self, path: KeyPath) -> str:
        """Return file, line and key of a path, as its problems begin."""
        return self._where(self.document.line(path) or 0, path)

    def _where(self, line: int, path: KeyPath) -> str:
        """Line 0 stands for none: a spec given as a dict has no lines."""
        where = f"{self.file}:{line}" if line else str(self.file)
        return f"{where}: {path_text(path)}" if path else where

    def _note(self, line: int, path: KeyPath, what: str) -> None:
        self._found.append((line, f"{self._where(line, path)}: {what}"))

    def foreign(self, message: str) -> None:
        """Note a problem of another file that the spec names, already told in full."""
        self._found.append((1 << 30, message))

    def raise_if_any(self) -> None:
        """Raise InputError with all problems in the order of the file."""
        if not self._found:
            return
        lines = list(dict.fromkeys(text for _, text in sorted(self._found, key=lambda f: f[0])))
        more = len(lines) - MAX_TOLD
        raise InputError(
            *lines[:MAX_TOLD], *([f"{self.file}: and {more} more"] if more > 0 else [])
        )

    def section(self, kind: type[Section], raw: Any, path: KeyPath) -> Section | None:
        """Validate one section and note its problems.

        What is sound of it is still returned where that is possible, so that its meaning can be
        checked in the same pass; the noted problems stop the load later.
        """
        try:
            return validate(kind, raw)
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details:
            self._refused(kind, detail, path)
        try:
            return validate(kind, _without(raw, [tuple(d["loc"]) for d in details]))
        except ValidationError:
            return None

    def _refused(self, kind: type[Any], detail: ErrorDetails, path: KeyPath) -> None:
        location: KeyPath = tuple(detail["loc"])
        if detail["type"] == "unexpected_keyword_argument":
            unknown = str(location[-1])
            known, at = known_keys(kind, location[:-1]), (*path, *location)
            if kind in SECTIONS.values():
                what = unknown_key(unknown, known, at[:-1], _of_skypilot(unknown))
            else:
                hint = did_you_mean(unknown, known) or f"; known: {', '.join(known)}"
                what = f"unknown key '{clip(unknown)}'{hint}"
            self.add(at, what)
            return
        self.add((*path, *location), _sentence(detail))


@dataclass(frozen=True, slots=True)
class Place:
    """One key path of a file, to which problems are noted."""

    problems: Problems
    at: KeyPath = ()

    def __truediv__(self, key: str | int) -> Place:
        return Place(self.problems, (*self.at, key))

    @property
    def text(self) -> str:
        """File, line and key, as problems here begin."""
        return self.problems.where(self.at)

    def add(self, what: str) -> None:
        """Note one problem here."""
        self.problems.add(self.at, what)


def _of_skypilot(key: str) -> str | None:
    """Return what to do with one of SkyPilot's own fields, None for any other word."""
    place, reason = place_of(key), reason_of(key)
    if place is not None:
        return f": SkyPilot's own fields go under {place}"
    return None if reason is None else f": {reason}"


def _without(raw: Any, locations: list[KeyPath]) -> Any:
    """Return `raw` without the refused keys; a list that holds one goes as a whole."""
    if not isinstance(raw, dict):
        return raw
    kept = dict(raw)
    for location in locations:
        if location and location[0] in raw:
            inner = raw[str(location[0])]
            kept.pop(str(location[0]), None)
            if isinstance(inner, dict) and len(location) > 1:
                within = [where[1:] for where in locations if where[:1] == location[:1]]
                kept[str(location[0])] = _without(inner, within)
    return kept


def _sentence(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _MUST:
        return _MUST[kind]
    bounds = {
        "greater_than": ("greater than", "gt"),
        "greater_than_equal": ("at least", "ge"),
        "less_than": ("less than", "lt"),
        "less_than_equal": ("at most", "le"),
    }
    if kind in bounds:
        words, key = bounds[kind]
        given, bound = detail["input"], context[key]
        text = f"must be {words} {bound:g}"
        if kind == "less_than_equal" and bound <= 1 < given <= 100:
            text += f"; it is a fraction: {given:g} % is {given / 100:g}"
        return text
    if kind in {"too_short", "string_too_short"}:
        return "must not be empty"
    if kind in {"too_long", "string_too_long"}:
        return f"must be at most {context['max_length']} long"
    if kind == "value_error":
        return str(context["error"])
    return detail["msg"]
