"""What makes a result print as a table, in terminals and notebooks alike.

A result of this package is the planner's own, as a subclass (all its fields are there, and whatever
takes the one takes the other) or as a tuple, that also knows how `report` shows it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from melange_sky.report.page import lines_html

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


class Shown:
    """Prints as `__str__` says; in a notebook as the same text, its columns kept, unless a class knows better."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return lines_html(str(self))


def as_result(kind: type[T], value: DataclassInstance) -> T:
    """Return a dataclass's values as an instance of its printing subclass."""
    named: dict[str, Any] = {f.name: getattr(value, f.name) for f in fields(value)}
    return kind(**named)
