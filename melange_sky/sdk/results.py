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

    from melange_sky.report.figures import Figure

T = TypeVar("T")


class Shown:
    """Prints as `__str__` says; in a notebook as the same text, its columns kept, unless a class knows better.

    Figures follow it there: Matplotlib is loaded only where a result that has some is shown.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        figures = self._figures()
        if not figures:
            return self._tables_html()
        from melange_sky.report.html import figures_html

        return self._tables_html() + figures_html(figures)

    def _tables_html(self) -> str:
        return lines_html(str(self))

    def _figures(self) -> tuple[Figure, ...]:
        return ()


def as_result(kind: type[T], value: DataclassInstance) -> T:
    """Return a dataclass's values as an instance of its printing subclass."""
    named: dict[str, Any] = {f.name: getattr(value, f.name) for f in fields(value)}
    return kind(**named)
