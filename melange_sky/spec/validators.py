"""Validators for the sections of a spec, made of the annotations of their keys.

The engine is pydantic's, pydantic_core, without its model classes: to import those and to build a
class for every section took about 0.1 s of each `plan`.
"""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic_core import SchemaValidator, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Section = TypeVar("Section")

_SCALARS: dict[Any, core_schema.CoreSchema] = {
    float: core_schema.float_schema(strict=True),
    int: core_schema.int_schema(strict=True),
    str: core_schema.str_schema(strict=True),
    bool: core_schema.bool_schema(strict=True),
    Any: core_schema.any_schema(),
}


def bounds(**limits: float | bool) -> Callable[[Any], Any]:
    """Return the rule that a number, text or list keeps to limits, named as in core schemas."""
    return lambda schema: {**schema, **limits}


def or_one_text(texts: Any) -> Any:
    """Take one text as a list of it."""
    return core_schema.no_info_before_validator_function(
        lambda value: [value] if isinstance(value, str) else value, texts
    )


def or_counted(texts: Any) -> Any:
    """Take SkyPilot's mapping of accelerators to counts, or a set of them, as a list of ``NAME:COUNT``."""
    return core_schema.no_info_before_validator_function(
        lambda value: (
            [_counted(name, count) for name, count in value.items()]
            if isinstance(value, dict) and value
            else value
        ),
        texts,
    )


def or_one_counted(text: Any) -> Any:
    """Take SkyPilot's mapping of one accelerator to its count as ``NAME:COUNT``."""
    return core_schema.no_info_before_validator_function(
        lambda value: (
            _counted(*next(iter(value.items())))
            if isinstance(value, dict) and len(value) == 1
            else value
        ),
        text,
    )


def _counted(name: object, count: object) -> object:
    return name if count is None else f"{name}:{count}"


def validate(section: type[Section], raw: object) -> Section:
    """Return `raw` as the section; unknown keys and silent conversions are refused.

    Raises pydantic_core.ValidationError with every problem.
    """
    kind: Any = section
    valid: Section = _validator(kind).validate_python(raw)
    return valid


def schema_of(section: type[Any]) -> core_schema.CoreSchema:
    """Return a section as pydantic_core describes it: keys, types, bounds and defaults."""
    return _section_schema(section)


def known_keys(section: type[Any], location: Sequence[str | int]) -> list[str]:
    """Return the keys that the section knows at `location`, inner sections included."""
    current: type[Any] | None = section
    for part in location:
        if current is not None and not isinstance(part, int):
            current = _inner_section(get_type_hints(current).get(part))
    return [field.name for field in fields(current)] if current is not None else []


def _inner_section(hint: Any) -> type[Any] | None:
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next(filter(None, map(_inner_section, get_args(hint))), None)


@cache
def _validator(section: type[Any]) -> SchemaValidator:
    return SchemaValidator(_section_schema(section))


def _section_schema(section: Any) -> core_schema.CoreSchema:
    hints = get_type_hints(section, include_extras=True)
    keys = [_key_schema(field, hints[field.name]) for field in fields(section)]
    return core_schema.dataclass_schema(
        section,
        core_schema.dataclass_args_schema(section.__name__, keys, extra_behavior="forbid"),
        [field.name for field in fields(section)],
    )


def _key_schema(field: Any, hint: Any) -> core_schema.DataclassField:
    schema = _schema(hint)
    if field.default is not MISSING:
        schema = core_schema.with_default_schema(schema, default=field.default)
    elif field.default_factory is not MISSING:
        schema = core_schema.with_default_schema(schema, default_factory=field.default_factory)
    return core_schema.dataclass_field(field.name, schema, kw_only=True)


def _schema(hint: Any) -> Any:
    """Return what an annotation asks for; what `Annotated` adds are rules, schema to schema."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        schema = _schema(inner[0])
        for rule in inner[1:]:
            schema = rule(schema)
        return schema
    if origin in (Union, UnionType):
        (other,) = (part for part in inner if part is not NoneType)
        return core_schema.nullable_schema(_schema(other))
    if origin is list:
        return core_schema.list_schema(_schema(inner[0]), strict=True)
    if origin is dict:
        return core_schema.dict_schema(*map(_schema, inner), strict=True)
    return _SCALARS[hint] if hint in _SCALARS else _section_schema(hint)
