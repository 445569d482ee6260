"""The reference of a document: its keys or fields in Markdown, as a list for terminals or a table for the site."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import yaml

from melange_sky.help.schema_keys import SchemaKey, keys_of, spec_keys
from melange_sky.help.texts import FieldText, field_texts
from melange_sky.spec.schema import OTHER_FILES

TOP, EVERYTHING = ".", "*"
"""Stand for the top level and for the whole document where a section is asked for."""

KNOWN_ELSEWHERE = frozenset({"WorkloadSection"})
"""Sections of other files that the spec's reference describes."""


class Style(Enum):
    """For whom a reference is made."""

    TERMINAL = "terminal"
    SITE = "site"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a reference. `default` None where there is none to tell."""

    path: str
    type_text: str
    default: str | None
    text: str
    example: str | None


def reference(document: str, section: str, style: Style) -> str:
    """Return what is in a section of a document, and in those inside it; of the top level, its keys alone."""
    entries = [entry for entry in _entries(document) if _is_in(entry.path, section)]
    if not entries:
        raise ValueError(f"no section '{section}' in the reference of {document}")
    return "\n".join(map(_item, entries)) if style is Style.TERMINAL else _table(entries)


def entries_with(document: str, word: str) -> str:
    """Return the entries whose path a word is part of, as a list; empty where there are none."""
    wanted = word.casefold()
    return "\n".join(_item(e) for e in _entries(document) if wanted in e.path.casefold())


def schema_keys(document: str) -> list[SchemaKey] | None:
    """Return the keys of a document that has a schema, None for one that the program writes."""
    if document == "spec":
        return spec_keys()
    if document in OTHER_FILES:
        return keys_of(OTHER_FILES[document], known=KNOWN_ELSEWHERE)
    return None


@cache
def _entries(document: str) -> tuple[Entry, ...]:
    texts, keys = field_texts(document), schema_keys(document)
    if keys is None:
        return tuple(_field(text) for text in texts.values())
    return tuple(_key(key, texts[key.path]) for key in keys if key.path in texts)


def _field(text: FieldText) -> Entry:
    kind = _with_unit(text.type_text or "", text.unit)
    inside = ""
    if text.inner_left_out:
        inside = " What is inside is the program's own."
    elif text.like is not None:
        inside = f" Inside: {'as this document' if text.like == TOP else f'as `{text.like}`'}."
    return Entry(
        path=text.path, type_text=kind, default=None, text=text.text + inside, example=None
    )


def _key(key: SchemaKey, text: FieldText) -> Entry:
    if key.required:
        default: str | None = "required"
    elif text.absent is not None:
        default = text.absent
    else:
        default = f"`{_plain(key.default)}`" if key.default not in ([], {}) else "none"
    return Entry(
        path=key.path,
        type_text=_with_unit(key.type_text or text.type_text or "", text.unit),
        default=default,
        text=text.text,
        example=None if text.example is None else _plain({key.name: text.example})[1:-1],
    )


def _with_unit(kind: str, unit: str | None) -> str:
    return f"{kind}, {unit}" if unit and kind else (unit or kind)


def _plain(value: Any) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False
    )
    return text.strip().removesuffix("\n...").strip()


def _is_in(path: str, section: str) -> bool:
    if section == EVERYTHING:
        return True
    if section == TOP:
        return "." not in path
    rest = path.removeprefix(section)
    return (rest != path and rest.startswith((".", "[]."))) or (rest == "" and "." in path)


def _item(entry: Entry) -> str:
    facts = "; ".join(
        filter(None, (entry.type_text, entry.default and f"default: {entry.default}"))
    ).replace("default: required", "required")
    if not facts:
        return f"- `{entry.path}` — {entry.text}\n"
    lines = [f"- `{entry.path}` — {facts}", f"  {entry.text}"]
    if entry.example is not None:
        lines.append(f"  Example: `{entry.example}`")
    return "\\\n".join(lines) + "\n"


def _table(entries: list[Entry]) -> str:
    with_default = any(entry.default is not None for entry in entries)
    with_type = any(entry.type_text for entry in entries)
    name = "key" if with_default else "field" if with_type else "code"
    columns = {"type": with_type, "default": with_default, "meaning": True}
    heads = [name, *(head for head, shown in columns.items() if shown)]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for entry in entries:
        meaning = entry.text
        if entry.example is not None:
            meaning += f"<br>Example: `{entry.example}`"
        cells = {"type": entry.type_text, "default": entry.default or "", "meaning": meaning}
        shown = [f"`{entry.path}`", *(cells[head] for head in heads[1:])]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in shown)} |")
    return "\n".join(rows)
