"""The axes of a sweep as people write them: values, doublings, steps; price factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from melange_sky.errors import InputError
from melange_sky.optimizer import PriceStep

MOST_VALUES = 1000
MOST_RATES = 50


def parse_axis(text: str | float | Sequence[float], name: str) -> tuple[float, ...]:
    """Return the values of ``1,4,16``, ``1:128:x2`` (times 2) or ``10:100:+10`` (plus 10).

    Numbers are taken as they are. Raises InputError with `name` for anything else.

    >>> parse_axis("1:8:x2", "--rate"), parse_axis("1:2:+0.5", "--rate"), parse_axis("3,5", "--rate")
    ((1.0, 2.0, 4.0, 8.0), (1.0, 1.5, 2.0), (3.0, 5.0))
    >>> parse_axis([1, 4], "--rate")
    (1.0, 4.0)
    """
    wrong = InputError(f"{name}: '{str(text)[:40]}' is not like 1,4,16 or 1:128:x2 or 10:100:+10")
    try:
        values = _values(text)
    except (TypeError, ValueError) as error:
        raise wrong from error
    if not values or any(not 0 < value < 1e9 for value in values):
        raise wrong
    return values


def _values(text: str | float | Sequence[float]) -> tuple[float, ...]:
    if isinstance(text, int | float):
        return (float(text),)
    if not isinstance(text, str):
        return tuple(float(value) for value in text)
    return _stepped(text) if ":" in text else tuple(float(part) for part in text.split(","))


def _stepped(text: str) -> tuple[float, ...]:
    first, last, step = text.split(":")
    value, end, by = float(first), float(last), float(step[1:])
    if step[0] not in "x+" or value <= 0 or (by <= 1 if step[0] == "x" else by <= 0):
        raise ValueError
    values: list[float] = []
    while value <= end * (1 + 1e-9) and len(values) < MOST_VALUES:
        values.append(value)
        value = value * by if step[0] == "x" else value + by
    return tuple(values)


def parse_prices(text: str) -> tuple[PriceStep, ...]:
    """Return the price steps of ``0.8,1,1.2`` (all prices) or ``H100=0.5:2:x2`` (one accelerator's).

    >>> [step.label for step in parse_prices("H100=0.5:2:x2")]
    ['H100=0.5', 'H100=1', 'H100=2']
    """
    name, equals, factors = text.rpartition("=")
    if equals and not name:
        raise InputError(f"--prices: '{text[:40]}' has no accelerator before '='")
    values = parse_axis(factors, "--prices")
    return tuple(PriceStep(factor=value, accelerator=name or None) for value in values)


def parse_rates(rates: str | Sequence[float]) -> tuple[float, ...]:
    """Return the request rates of ``1,4,16`` or of a sequence, each once, in order."""
    try:
        words = rates.split(",") if isinstance(rates, str) else rates
        values = tuple(float(word) for word in words)
    except (TypeError, ValueError):
        values = ()
    if not values or not all(0 < v < math.inf for v in values) or len(values) > MOST_RATES:
        raise InputError(f"--rates must be at most {MOST_RATES} numbers above 0, such as 1,4,16")
    return tuple(sorted(set(values)))
