"""Requests within JSON, however they are nested: records are told by holding token counts.

OpenTelemetry's attributes (lists of key and value) count as keys, lists of a column's values as rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from melange_sky.traces.roles import side_of
from melange_sky.traces.sample import is_missing
from melange_sky.traces.tokens import as_count

Path = tuple[str, ...]
Record = dict[Path, Any]

MAX_DEPTH = 12
CHARACTERS_PER_TOKEN = 4.0
"""English text, as OpenAI's documentation gives it; other languages have fewer."""

_TALKS = ("conversations", "conversation", "messages", "turns")
_SPEAKERS = ("from", "role", "speaker")
_TEXTS = ("value", "content", "text")
_ANSWERING = frozenset({"gpt", "assistant", "model", "bot", "chatgpt", "bing", "bard"})
_OTLP_VALUES = (
    "stringValue",
    "intValue",
    "doubleValue",
    "boolValue",
    "string_value",
    "int_value",
    "double_value",
)


def flattened(value: dict[str, Any], keep_lists: bool = False) -> Record:
    """Return a record's values by the keys that lead to them; lists are left out (or kept as values)."""
    found: Record = {}
    _flatten(value, (), found, keep_lists)
    return found


def _flatten(value: dict[str, Any], at: Path, found: Record, keep_lists: bool) -> None:
    for key, inner in value.items():
        here = (*at, key)
        if isinstance(inner, dict) and len(here) < MAX_DEPTH:
            _flatten(inner, here, found, keep_lists)
        elif isinstance(inner, list):
            attributes = _attributes(inner)
            if attributes is not None:
                found.update({(*here, name): item for name, item in attributes.items()})
            elif keep_lists or key == "hash_ids":
                found[here] = inner
        else:
            found[here] = inner


def _attributes(items: list[Any]) -> dict[str, Any] | None:
    """Return a list of OpenTelemetry's attributes as a mapping, None for any other list."""
    if not items or not all(
        isinstance(item, dict) and "key" in item and "value" in item for item in items
    ):
        return None
    return {str(item["key"]): _plain(item["value"]) for item in items}


def _plain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return next((value[kind] for kind in _OTLP_VALUES if kind in value), None)


def sides(record: Record) -> set[str]:
    """Return which sides of a request a record counts the tokens of."""
    found = {
        side_of(path)
        for path, value in record.items()
        if not is_missing(value) and as_count(value) is not None
    }
    return {side for side in found if side is not None}


def requests_in(value: Any, named: frozenset[str] = frozenset()) -> Iterator[Record]:
    """Yield the records of requests within a JSON value; `named` are columns that the user names.

    A record that counts tokens is a request. One that does not is looked through for lists of such
    records, which inherit its other values; where none is found it stands for itself.
    """
    found = _requests(value, {}, named, 0)
    first = next(found, None)
    yield {} if first is None else first
    yield from found


def _requests(value: Any, above: Record, named: frozenset[str], depth: int) -> Iterator[Record]:
    if isinstance(value, list):
        for item in value:
            yield from _requests(item, above, named, depth + 1)
        return
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return
    own = flattened(value)
    if len(sides(own)) == 2 or (named and named <= {".".join(path) for path in own}):
        yield above | own
        return
    columns = _column_lists(value)
    if columns is not None:
        yield from columns
        return
    talk = _talk(value)
    if talk is not None:
        yield from talk
        return
    inner = [item for item in _lists(value) if _attributes(item) is None]
    within = itertools.chain.from_iterable(
        _requests(item, above | own, named, depth + 1)
        for item in inner
        if any(isinstance(x, dict | list) for x in item)
    )
    first = next(within, None)
    if first is None:
        yield above | own
        return
    yield first
    yield from within


def _lists(value: dict[str, Any]) -> Iterator[list[Any]]:
    for inner in value.values():
        if isinstance(inner, list):
            yield inner
        elif isinstance(inner, dict):
            yield from _lists(inner)


def _column_lists(value: dict[str, Any]) -> Iterator[Record] | None:
    """Return the rows of a record whose columns are lists, such as a benchmark's result; None for another."""
    lists = {key: inner for key, inner in value.items() if isinstance(inner, list) and inner}
    counted = [
        key for key, inner in lists.items() if side_of((key,)) and as_count(inner[0]) is not None
    ]
    if {side_of((key,)) for key in counted} != {"input", "output"}:
        return None
    length = len(lists[counted[0]])
    columns = {key: inner for key, inner in lists.items() if len(inner) == length}
    return ({(key,): inner[n] for key, inner in columns.items()} for n in range(length))


def _talk(value: dict[str, Any]) -> Iterator[Record] | None:
    """Return the requests of a conversation, one per answer, None for what is none.

    Token counts are estimated from the texts: a request holds all that was said before its answer.
    """
    for key in _TALKS:
        turns = value.get(key)
        if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
            continue
        speaker = next((name for name in _SPEAKERS if name in turns[0]), None)
        text = next((name for name in _TEXTS if name in turns[0]), None)
        if speaker and text:
            return _answers(value, turns, speaker, text)
    return None


def _answers(value: dict[str, Any], turns: list[Any], speaker: str, text: str) -> Iterator[Record]:
    own = {path: item for path, item in flattened(value).items() if path[0] not in _TALKS}
    before = 0
    for turn in turns:
        if not isinstance(turn, dict):
            continue
        said = turn.get(text)
        length = len(said) if isinstance(said, str) else 0
        if str(turn.get(speaker)).casefold() in _ANSWERING and before:
            yield own | {
                ("estimated", "input_tokens"): max(1, round(before / CHARACTERS_PER_TOKEN)),
                ("estimated", "output_tokens"): round(length / CHARACTERS_PER_TOKEN),
                ("conversation",): own.get(("id",)),
            }
        before += length
