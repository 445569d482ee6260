"""Every key of the spec is documented, and nothing that is no key; types and defaults are the schema's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic_core import SchemaValidator

from melange_sky.help.reference import Style, reference, schema_keys
from melange_sky.help.schema_keys import SchemaKey, spec_keys
from melange_sky.help.texts import FOLDER, FieldText, documents, field_texts, unit_of
from melange_sky.spec import schema
from melange_sky.spec.validators import schema_of

WITH_SCHEMA = ["spec", *schema.OTHER_FILES]
ALL = [(document, key) for document in WITH_SCHEMA for key in schema_keys(document) or ()]
IDS = [f"{document}:{key.path}" for document, key in ALL]


def text_of(document: str, key: SchemaKey) -> FieldText:
    texts = field_texts(document)
    assert key.path in texts, (
        f"the key '{key.path}' has no text: add an entry for it to {FOLDER / document}.yaml"
    )
    return texts[key.path]


@pytest.mark.parametrize(("document", "key"), ALL, ids=IDS)
def test_every_key_has_a_text(document: str, key: SchemaKey) -> None:
    text = text_of(document, key)
    at = f"{FOLDER / document}.yaml, '{key.path}'"
    if key.type_text is None:
        assert text.type_text, f"{at}: the schema takes anything, so say the type"
    else:
        assert text.type_text is None or "section" in text.type_text, (
            f"{at}: leave the type out, the schema says '{key.type_text}'"
        )
    if not key.required and key.default is None:
        assert text.absent, f"{at}: say what holds where the key is absent"
    else:
        assert text.absent is None, f"{at}: the schema has the default, leave `absent` out"
    is_figure = (key.type_text or "").startswith(("number", "whole number"))
    assert text.unit or not is_figure, f"{at}: say the unit of the number"
    assert text.text[0].isupper() or text.text[0] == "`", f"{at}: begin with a capital letter"
    assert text.text.endswith("."), f"{at}: end with a full stop"


@pytest.mark.parametrize("document", WITH_SCHEMA)
def test_nothing_is_documented_that_is_no_key(document: str) -> None:
    known = {key.path for key in schema_keys(document) or ()}
    gone = [path for path in field_texts(document) if path not in known]
    assert not gone, f"{FOLDER / document}.yaml documents what is no key: {', '.join(gone)}"


def _inner(key: dict[str, Any]) -> dict[str, Any]:
    """The schema of a key without its default."""
    inner: dict[str, Any] = key["schema"]
    return inner["schema"] if inner["type"] == "default" else inner


def _schema_at(document: str, path: str) -> Any:
    """The core schema of a key, found again from its path alone."""
    sections: dict[str, type[Any]] = (
        schema.SECTIONS if document == "spec" else {"": schema.OTHER_FILES[document]}
    )
    start = max((s for s in sections if not s or path.startswith(s + ".")), key=len)
    current = schema_of(sections[start])
    for name in path[len(start) :].strip(".").split("."):
        while current["type"] != "dataclass":
            current = current.get("schema") or current["items_schema"]
        fields = {field["name"]: field for field in current["schema"]["fields"]}
        current = _inner(fields[name.removesuffix("[]")])
    return current


@pytest.mark.parametrize(("document", "key"), ALL, ids=IDS)
def test_the_example_is_one_that_the_schema_takes(document: str, key: SchemaKey) -> None:
    text = text_of(document, key)
    is_section = "section" in (key.type_text or text.type_text or "")
    if is_section:
        return  # its keys have examples of their own
    assert text.example is not None, f"{FOLDER / document}.yaml, '{key.path}': give an example"
    SchemaValidator(_schema_at(document, key.path)).validate_python(text.example)


def test_every_section_of_the_schema_is_in_the_reference() -> None:
    """A section that the code validates by itself needs its line in `schema.SECTIONS`."""
    sections = {
        value
        for name, value in vars(schema).items()
        if name.endswith("Section") and dataclasses.is_dataclass(value)
    }
    reached: set[Any] = set()

    def reach(core: Any) -> None:
        if isinstance(core, dict):
            if core.get("type") == "dataclass":
                reached.add(core["cls"])
            for value in core.values():
                reach(value)
        elif isinstance(core, list):
            for value in core:
                reach(value)

    for section in (*schema.SECTIONS.values(), *schema.OTHER_FILES.values()):
        reach(schema_of(section))
    missing = sorted(section.__name__ for section in sections - reached)
    assert not missing, f"add to SECTIONS of melange_sky/spec/schema.py, by key: {missing}"


def test_types_bounds_and_defaults_are_told_as_the_schema_has_them() -> None:
    keys = {key.path: key for key in spec_keys()}
    assert keys["slo.attainment"].type_text == "number above 0, at most 1"
    assert keys["headroom"].default == 0.1
    assert keys["resources.limits"].type_text == "mapping of names to whole numbers 0 to 100,000"
    assert keys["resources.fixed[].instances"].required
    listed = reference("spec", "slo", Style.TERMINAL)
    assert "- `slo.attainment` — number above 0, at most 1, fraction; default: `0.95`" in listed
    assert "Example: `attainment: 0.99`" in listed
    assert "headroom" not in listed
    table = reference("spec", ".", Style.SITE).splitlines()
    assert table[0] == "| key | type | default | meaning |"
    assert any(row.startswith("| `name` | text | required |") for row in table)


def test_a_unit_comes_from_the_end_of_the_name() -> None:
    assert unit_of("resources.budget_usd_per_hour") == "USD/h"
    assert unit_of("slo.attainment") is None


def test_every_file_of_texts_can_be_read() -> None:
    for document in documents():
        assert field_texts(document)
