"""Records with something in every field, made from their types: a new field is in them at once."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

import melange_sky

_PLAIN: dict[Any, Any] = {
    float: 0.5,
    int: 1,
    str: "text",
    bool: True,
    Path: Path("text"),
    datetime: datetime(2026, 11, 1, tzinfo=timezone.utc),
    Any: "text",
}
_OWN: dict[str, dict[str, Any]] = {
    "Elastic": {"max": 2.0},
    "Workload": {"input_edges": (0, 10), "output_edges": (0, 10)},
    "EngineChoice": {"name": "vllm"},
    "LateSize": {"i": 0, "j": 0},
    "RateProfile": {"dispersion": (0.5, None, 0.5, None), "counts": (1,), "lengths_s": (300.0,)},
    "BucketVerdict": {"bucket": (0, 0)},
    "Offer": {"accelerator": "H100"},
}
"""Fields that other code takes for granted, by the record's name."""


class Hollow(Enum):
    """What is left None where that is allowed: nothing, what is no record, or records too."""

    NOTHING = "nothing"
    PLAIN = "plain"
    ALL = "all"

    @classmethod
    def of(cls, kind: Any) -> Hollow:
        """Return the least that leaves a value of a type out."""
        return cls.ALL if dataclasses.is_dataclass(kind) else cls.PLAIN


@cache
def _modules() -> dict[str, dict[str, Any]]:
    rooms = pkgutil.walk_packages(melange_sky.__path__, "melange_sky.")
    names = [room.name for room in rooms if not room.name.endswith("__main__")]
    return {name: vars(importlib.import_module(name)) for name in names}


@cache
def _names() -> dict[str, Any]:
    """Everything that an annotation may name, imported for typing alone or not."""
    found: dict[str, Any] = {}
    for variables in _modules().values():
        found |= {k: v for k, v in variables.items() if not k.startswith("_")}
    plain = {"Mapping": Mapping, "Sequence": Sequence, "Path": Path}
    return found | plain | {"np": np, "NDArray": NDArray}


def filled(kind: Any, hollow: Hollow = Hollow.NOTHING, **over: Any) -> Any:
    """Return a value of a type: a record with something in every field, a list of one, a text.

    `over` gives fields of a record by name.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        module = vars(importlib.import_module(kind.__module__))
        hints = get_type_hints(kind, globalns=_names() | module)
        over = _OWN.get(kind.__name__, {}) | over
        given = {
            field.name: over.get(field.name, None)
            if field.name in over
            else filled(hints[field.name], hollow)
            for field in dataclasses.fields(kind)
            if field.init
        }
        return kind(**given)
    return _plain(kind, hollow)


def _plain(kind: Any, hollow: Hollow) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        part = next(part for part in inner if part is not NoneType)
        if NoneType in inner and hollow in (Hollow.ALL, Hollow.of(part)):
            return None
        return filled(part, hollow)
    if origin is tuple and inner[-1] is not Ellipsis:
        return tuple(filled(part, hollow) for part in inner)
    if origin in (tuple, list, frozenset, Sequence):
        made = origin if origin in (list, frozenset) else tuple
        return made([filled(inner[0], hollow)])
    if origin is Literal:
        return inner[0]
    if origin in (Mapping, dict):
        return {"key": filled(inner[1], hollow)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    return _PLAIN[kind]
