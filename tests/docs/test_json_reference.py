"""Every field of every JSON document is documented with its type, and nothing that is no field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
import pytest

from melange_sky.cli import cli
from melange_sky.help.texts import FOLDER, FieldText, documents, field_texts
from tests.docs.json_documents import DOCUMENTS
from tests.docs.test_spec_reference import WITH_SCHEMA

_TYPES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (bool, ("true or false",)),
    (int, ("whole number", "number")),
    (float, ("number",)),
    (str, ("text",)),
    (list, ("list", "rows")),
    (dict, ("object", "mapping")),
    (type(None), ("null",)),
)


def written(name: str) -> list[Any]:
    """Return the documents as a reader of JSON sees them."""
    return [json.loads(json.dumps(document)) for document in DOCUMENTS[name]()]


def words_for(value: Any) -> tuple[str, ...]:
    """Return the words of a type that take a value."""
    return next(words for kind, words in _TYPES if isinstance(value, kind))


def takes(type_text: str, value: Any) -> bool:
    """Return whether a documented type takes a value."""
    words = type_text.replace("true or false", "truth").split(" or ")
    wanted = {word.replace("true or false", "truth") for word in words_for(value)}
    return any(word.startswith(tuple(wanted)) for word in words)


def fields_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field inside a value with its path."""
    if isinstance(value, dict):
        for name, inner in value.items():
            own = f"{path}.{name}" if path else name
            yield own, inner
            yield from fields_of(inner, own)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from fields_of(item, f"{path}[]" if path else "")


def entry_for(path: str, texts: dict[str, FieldText]) -> tuple[str, FieldText] | None:
    """Return the entry that documents a path, following `like`; None where there is none.

    ("", an entry) where something above it says that what is inside is no promise.
    """
    if path in texts:
        return path, texts[path]
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        above = ".".join(parts[:end])
        text = texts.get(above.removesuffix("[]"))
        if text is None:
            continue
        if text.inner_left_out or (text.type_text or "").startswith("mapping"):
            return "", text
        if text.like is not None:
            rest = ".".join(parts[end:])
            return entry_for(rest if text.like == "." else f"{text.like}.{rest}", texts)
        return None
    return None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_field_is_documented_with_its_type(name: str) -> None:
    texts, file = field_texts(name), FOLDER / f"{name}.yaml"
    used: set[str] = set()
    for document in written(name):
        for path, value in fields_of(document):
            found = entry_for(path, texts)
            assert found is not None, f"'{path}' has no text: add an entry to {file}"
            used.add(found[0])
            if found[0]:
                kind = found[1].type_text
                assert kind, f"{file}, '{found[0]}': say the type"
                assert takes(kind, value), f"{file}, '{found[0]}': '{path}' is {value!r}"
    gone = [path for path in texts if path not in used]
    assert not gone, f"{file} documents what is no field: {', '.join(gone)}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_null_is_promised_only_where_there_can_be_one(name: str) -> None:
    texts, file = field_texts(name), FOLDER / f"{name}.yaml"
    nulls = {
        found[0]
        for document in written(name)
        for path, value in fields_of(document)
        if value is None and (found := entry_for(path, texts))
    }
    wrong = [
        path
        for path, text in texts.items()
        if (text.type_text or "").endswith(" or null") and path not in nulls
    ]
    assert not wrong, f"{file}: never null: {', '.join(wrong)}"


def test_every_file_of_fields_has_its_document() -> None:
    assert set(documents()) == {*DOCUMENTS, *WITH_SCHEMA, "warnings"}


def test_a_field_that_is_not_documented_is_found() -> None:
    texts = {
        "a": FieldText(path="a", text="A.", type_text="object"),
        "a.b": FieldText(path="a.b", text="B.", type_text="whole number or null"),
        "c": FieldText(path="c", text="C.", type_text="list of objects", like="a"),
        "d": FieldText(path="d", text="D.", type_text="mapping of names to numbers"),
    }
    assert entry_for("a.b", texts) == ("a.b", texts["a.b"])
    assert entry_for("c[].b", texts) == ("a.b", texts["a.b"])
    assert entry_for("d.any", texts) == ("", texts["d"])
    assert entry_for("a.x", texts) is None
    assert entry_for("c[].x", texts) is None
    assert takes("whole number or null", 1)
    assert not takes("whole number", 1.5)
    assert not takes("number", True)
    assert not takes("number", None)


PRINTED = {"plan": ["plan"], "prices diff": ["prices-diff", "prices-diff-plan"]} | {
    "profile run": ["profile-run", "profile-quick"],
    "watch": ["watch", "watch-replay"],
}
"""Commands that print another document than that of their name, or several."""

SERVED = {"plugin-fleets"}
"""Documents that no command prints: routes of SkyPilot's API server answer with them."""


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its whole name."""
    context = click.Context(group)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{word} ")
        else:
            yield f"{name}{word}", command


def test_every_command_that_prints_json_has_its_documents() -> None:
    found: set[str] = set()
    for name, command in commands(cli):
        kinds = [option.type for option in command.params if "--format" in option.opts]
        if any(isinstance(kind, click.Choice) and "json" in kind.choices for kind in kinds):
            wanted = PRINTED.get(name, [name.replace(" ", "-")])
            missing = [document for document in wanted if document not in DOCUMENTS]
            assert not missing, (
                f"`{name} --format json`: add {FOLDER}/{missing[0]}.yaml, its line in "
                "tests/docs/json_documents.py and a section on help/pages/json.md"
            )
            found.update(wanted)
    assert found == set(DOCUMENTS) - SERVED
