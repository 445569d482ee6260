"""The kinds of value that translated functions know, as their annotations name them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import FunctionType
from typing import Any


class TranslationError(TypeError):
    """A function uses what translated functions may not."""


class Scalar(Enum):
    """A single value, or none."""

    WHOLE = "whole number"
    FLOAT = "float"
    TRUTH = "truth value"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Array:
    """Numbers in a row, or in rows: laid out without gaps, last index fastest."""

    item: Scalar
    dimensions: int


@dataclass(frozen=True, slots=True)
class Several:
    """A tuple of values."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """A named tuple: its fields in order, each with the place of its first slot of eight bytes."""

    name: str
    fields: tuple[tuple[str, Kind, int], ...]


Kind = Scalar | Array | Several | Record

_NAMED: dict[str, Kind] = {
    "int": Scalar.WHOLE,
    "float": Scalar.FLOAT,
    "bool": Scalar.TRUTH,
    "None": Scalar.NOTHING,
    "Whole": Array(Scalar.WHOLE, 1),
    "Floats": Array(Scalar.FLOAT, 1),
    "WholeRows": Array(Scalar.WHOLE, 2),
    "FloatRows": Array(Scalar.FLOAT, 2),
}
_OF_ITEMS = ("Vector", "Sequence")


def slots_of(kind: Kind) -> int:
    """Return how many slots of eight bytes a value takes where it is handed over in memory."""
    match kind:
        case Array():
            return 1 + kind.dimensions
        case Several():
            return sum(slots_of(k) for k in kind.kinds)
        case _:
            return 0 if kind is Scalar.NOTHING else 1


def annotated(node: ast.expr | None, scope: Mapping[str, Any]) -> Kind:
    """Return the kind that an annotation names; `scope` has the named tuples."""
    match node:
        case None | ast.Constant(value=None):
            return Scalar.NOTHING
        case ast.Name(id=name) if name in _NAMED:
            return _NAMED[name]
        case ast.Name(id=name) if hasattr(scope.get(name), "_fields"):
            return record_of(scope[name])
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=parts)):
            return Several(tuple(annotated(part, scope) for part in parts))
        case ast.Subscript(value=ast.Name(id=name), slice=item) if name in _OF_ITEMS:
            kind = annotated(item, scope)
            if isinstance(kind, Scalar):
                return Array(kind, 1)
    raise TranslationError(f"annotation {ast.unparse(node)} is of no kind that is known here")


def signature_of(function: FunctionType) -> tuple[tuple[Kind, ...], Kind]:
    """Return the kinds of a function's arguments and of its result, which its module annotates in words."""
    code, scope = function.__code__, function.__globals__

    def kind_of(name: str) -> Kind:
        annotation = function.__annotations__.get(name)
        if annotation is None:
            return Scalar.NOTHING
        return annotated(_read(annotation), scope)

    names = code.co_varnames[: code.co_argcount]
    return tuple(kind_of(name) for name in names), kind_of("return")


def _read(annotation: Any) -> ast.expr:
    text: str = getattr(annotation, "__forward_arg__", annotation)
    return ast.parse(text, mode="eval").body


_records: dict[Any, Record] = {}


def record_of(named_tuple: Any) -> Record:
    """Return the kind of a named tuple's class."""
    if named_tuple not in _records:
        fields: list[tuple[str, Kind, int]] = []
        place = 0
        for name, annotation in named_tuple.__annotations__.items():
            scope = vars(sys.modules[named_tuple.__module__])
            kind = annotated(_read(annotation), scope)
            fields.append((name, kind, place))
            place += slots_of(kind)
        _records[named_tuple] = Record(named_tuple.__name__, tuple(fields))
    return _records[named_tuple]
