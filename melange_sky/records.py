"""`dataclass` as the standard library has it, whose methods are made when they are first called.

The standard decorator compiles six functions for each class as its module is imported; for the hundred
and fifty records that `plan` knows that was a seventh of its time, most of it for functions that are
never called. What this one makes are dataclasses all the same: `fields`, `replace`, `asdict`, pickling
and pattern matching work. Type checkers see the standard decorator.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, FrozenInstanceError, fields
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from dataclasses import dataclass
else:

    def dataclass(*, frozen=False, slots=False, kw_only=False, eq=True, order=False):
        """Return a decorator that makes a class a dataclass; parameters as in the standard library."""
        if order:  # seldom wanted: all of it from the standard library
            return dataclasses.dataclass(
                frozen=frozen, slots=slots, kw_only=kw_only, eq=eq, order=order
            )

        def decorate(cls):
            # Without a text the standard decorator makes one of the signature, which takes long.
            cls.__doc__ = cls.__doc__ or cls.__name__
            made = dataclasses.dataclass(
                init=False, repr=False, eq=False, slots=slots, kw_only=kw_only
            )(cls)
            for name, method in _methods(made, frozen, eq):
                if name not in vars(made):
                    setattr(made, name, method)
            if eq and not frozen and vars(made).get("__hash__") is None:
                made.__hash__ = None
            return made

        return decorate


__all__ = ["dataclass"]


def _methods(cls: type[Any], frozen: bool, eq: bool) -> list[tuple[str, Callable[..., Any]]]:
    """Return the methods of a record that it does not have of its own."""

    def first_init(self: Any, *args: Any, **named: Any) -> None:
        init = _compiled_init(cls, frozen)
        cls.__init__ = init
        init(self, *args, **named)

    methods: list[tuple[str, Callable[..., Any]]] = [("__init__", first_init), ("__repr__", _shown)]
    if frozen:
        methods += [("__setattr__", _refuse_to_set), ("__delattr__", _refuse_to_delete)]
        methods += [("__getstate__", _state), ("__setstate__", _restore)]
    if not eq:
        return methods
    compared = [field for field in fields(cls) if field.compare]
    key = _values_of([field.name for field in compared])

    def equal(self: Any, other: Any) -> Any:
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    methods.append(("__eq__", equal))
    if frozen:
        hashed = _values_of([field.name for field in compared if field.hash is not False])
        methods.append(("__hash__", lambda self: hash(hashed(self))))
    return methods


def _values_of(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    return lambda record: tuple(getattr(record, name) for name in names)


@recursive_repr()
def _shown(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _refuse_to_set(self: Any, name: str, value: Any) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in fields(self)]


def _restore(self: Any, state: Sequence[Any]) -> None:
    for field, value in zip(fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


def _compiled_init(cls: type[Any], frozen: bool) -> Callable[..., None]:
    """Return the `__init__` that the standard decorator would make, of names that Python checked."""
    known: dict[str, Any] = {"_set": object.__setattr__, "_missing": MISSING}
    by_place: list[str] = []
    by_name: list[str] = []
    body = []
    for field in fields(cls):
        name, value = field.name, field.name
        parameter = name
        if field.default is not MISSING:
            known[f"_default_{name}"] = field.default
            parameter = f"{name}=_default_{name}"
        elif field.default_factory is not MISSING:
            known[f"_make_{name}"] = field.default_factory
            parameter = f"{name}=_missing"
            value = f"_make_{name}() if {name} is _missing else {name}"
        if field.init:
            (by_name if field.kw_only else by_place).append(parameter)
        elif parameter == name:
            continue  # set later, or by `__post_init__`
        else:
            value = f"_default_{name}" if field.default is not MISSING else f"_make_{name}()"
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    signature = ", ".join(["self", *by_place, *(["*", *by_name] if by_name else [])])
    lines = "\n    ".join(body or ["pass"])
    exec(f"def __init__({signature}):\n    {lines}\n", known)
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init
