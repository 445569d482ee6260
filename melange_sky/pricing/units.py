"""What a price table says of its own money and time: anything but USD per hour is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CURRENCY = re.compile(r"(price|billing)?[ _-]?currency([ _-]?code)?\Z", re.IGNORECASE)
_UNIT = re.compile(r"(price[ _-]?)?unit([ _-]?of[ _-]?measure)?\Z", re.IGNORECASE)
_DOLLARS = frozenset({"usd", "$", "us$", "us dollar", "us dollars"})
_HOURS = re.compile(r"(usd|\$)?[ /]*(per |/)?(1 )?(h|hr|hrs|hour|hours|hourly)\Z", re.IGNORECASE)


def unit_columns(header: Sequence[str]) -> dict[str, int]:
    """Return the columns of a table that state its currency or its unit, by name with their places."""
    return {
        name: i
        for i, name in enumerate(header)
        if _CURRENCY.match(name.strip()) or _UNIT.match(name.strip())
    }


def unit_problem(columns: Mapping[str, int], row: Sequence[str]) -> str | None:
    """Return why a row's prices are not USD per hour, None where they are or where it does not say.

    >>> unit_problem({"currency": 0}, ["EUR"]), unit_problem({"unit": 0}, ["Hrs"])
    ("its prices are in 'EUR' (column 'currency'), not in USD", None)
    """
    for name, i in columns.items():
        said = row[i].strip() if i < len(row) else ""
        if not said:
            continue
        if _CURRENCY.match(name.strip()):
            if said.casefold() not in _DOLLARS:
                return f"its prices are in '{said[:20]}' (column '{name}'), not in USD"
        elif not _HOURS.match(said):
            return f"its prices are per '{said[:20]}' (column '{name}'), not per hour"
    return None
