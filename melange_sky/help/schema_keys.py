"""The keys of a spec as its schema has them: path, type in words, default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from melange_sky.spec.schema import SECTIONS
from melange_sky.spec.validators import schema_of

_SCALARS = {"float": "number", "int": "whole number", "str": "text", "bool": "true or false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaKey:
    """One key. `path` is such as ``resources.fixed[].infra``, where ``[]`` stands for each item of a list.

    `type_text` says what it takes, None where the schema takes anything and code decides. `default` is
    None for a required key too.
    """

    path: str
    type_text: str | None
    required: bool
    default: Any

    @property
    def section(self) -> str:
        """Return the path of the section that holds it, empty for the top level."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Return the key itself."""
        return self.path.rpartition(".")[2].removesuffix("[]")


def spec_keys() -> list[SchemaKey]:
    """Return every key of a spec, section by section in the schema's order."""
    found: list[SchemaKey] = []
    for path, section in SECTIONS.items():
        found += keys_of(section, path)
    return found


def keys_of(
    section: type[Any], path: str = "", known: frozenset[str] = frozenset()
) -> list[SchemaKey]:
    """Return the keys of a section and of those inside it, but not inside the `known` ones."""
    return _keys(schema_of(section), path, known)


def _keys(schema: Any, path: str, known: frozenset[str]) -> list[SchemaKey]:
    found = []
    for key in schema["schema"]["fields"]:
        value, default, required = key["schema"], None, True
        if value["type"] == "default":
            required = False
            default = value["default_factory"]() if "default_factory" in value else value["default"]
            value = value["schema"]
        own = f"{path}.{key['name']}" if path else key["name"]
        words = _words(value)
        if own in SECTIONS:
            words = "section"
        elif f"{own}[]" in SECTIONS:
            words = "list of sections"
        found.append(SchemaKey(path=own, type_text=words, required=required, default=default))
        inner, suffix = _inner_section(value)
        if inner is not None and inner["cls"].__name__ not in known:
            found += _keys(inner, own + suffix, known)
    return found


def _inner_section(schema: Any) -> tuple[Any, str]:
    """Return the section inside a schema and what the path to it ends with, None where there is none."""
    kind = schema["type"]
    if kind == "dataclass":
        return schema, ""
    if kind in ("nullable", "function-before"):
        return _inner_section(schema["schema"])
    if kind == "list":
        inner, suffix = _inner_section(schema["items_schema"])
        return inner, f"[]{suffix}"
    if kind == "dict":
        inner, suffix = _inner_section(schema["values_schema"])
        return inner, f".*{suffix}"
    return None, ""


def _words(schema: Any, many: bool = False) -> str | None:
    """Return what a schema takes, in words; None where it takes anything."""
    kind = schema["type"]
    if kind == "nullable":
        return _words(schema["schema"], many)
    if kind == "function-before":  # one text for a list of one: the only such rule
        return "text or list of texts"
    if kind == "dataclass":
        return "sections" if many else "section"
    if kind == "list":
        items = _words(schema["items_schema"], many=True)
        return f"{'lists' if many else 'list'} of {items or 'values'}"
    if kind == "dict":
        values = _words(schema["values_schema"], many=True)
        return f"mapping of names to {values or 'values'}"
    if kind == "any":
        return None
    return _scalar(schema, many)


def _scalar(schema: Any, many: bool) -> str:
    word = _SCALARS[schema["type"]]
    if many:
        word = "true or false" if schema["type"] == "bool" else f"{word}s"
    low, high = schema.get("ge"), schema.get("le")
    if low is not None and high is not None:
        return f"{word} {_figure(low)} to {_figure(high)}"
    bounds = []
    if schema.get("gt") is not None:
        bounds.append(f"above {_figure(schema['gt'])}")
    if low is not None:
        bounds.append(f"{_figure(low)} or more")
    if high is not None:
        bounds.append(f"at most {_figure(high)}")
    return " ".join([word, ", ".join(bounds)]) if bounds else word


def _figure(number: float) -> str:
    return f"{number:,.12g}"
