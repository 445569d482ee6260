"""Numbers of figures and tables as people read them, each with the value behind it."""

from __future__ import annotations

from melange_sky.report.figures.chart import UNKNOWN, Cell

SHORT = 26
"""Characters of a name in a chart; its table has it whole."""


def usd(value: float | None) -> Cell:
    """Return dollars to the tenth of a cent, as the plan's table has them."""
    return UNKNOWN if value is None else Cell(_signed(value, f"${abs(value):,.3f}"), value)


def short_usd(value: float) -> str:
    """Return dollars for a chart: cents, and no cents from a thousand up.

    >>> short_usd(13.4201), short_usd(-20000)
    ('$13.42', '-$20,000')
    """
    return _signed(value, f"${abs(value):,.{0 if abs(value) >= 1000 else 2}f}")


def _signed(value: float, text: str) -> str:
    return f"-{text}" if value < 0 else text


def percent(value: float | None, digits: int = 1) -> Cell:
    """Return a fraction as a percentage."""
    return UNKNOWN if value is None else Cell(f"{value:,.{digits}%}", value)


def rate(value: float | None) -> Cell:
    """Return requests per second to three digits.

    >>> rate(3.9512).text, rate(12345.6).text, rate(0.0123).text
    ('3.95', '12,346', '0.0123')
    """
    return UNKNOWN if value is None else Cell(plain(value), value)


def plain(value: float) -> str:
    """Return a number to three digits, without an exponent where it is of a usual size."""
    if value and abs(value) < 1e-4:
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count(value: float | None) -> Cell:
    """Return a whole number."""
    return UNKNOWN if value is None else Cell(f"{value:,.0f}", value)


def milliseconds(value_s: float | None) -> Cell:
    """Return seconds as milliseconds; the value stays in seconds."""
    return UNKNOWN if value_s is None else Cell(f"{value_s * 1000:,.1f} ms", value_s)


def words(text: str | None) -> Cell:
    """Return a text; unknown where there is none."""
    return UNKNOWN if text is None or text == "" else Cell(text)


def shortened(text: str, length: int = SHORT) -> str:
    """Return a name that fits a chart: the middle of a long one left out.

    >>> shortened("Standard_NC24ads_A100_v4_and_more", 20)
    'Standard_N…_and_more'
    """
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def printable(text: str) -> str:
    """Return a text without what a browser or a terminal might act on: each such character as a question mark.

    Control characters, and those that turn the direction of what follows.
    """
    return "".join(c if c.isprintable() else "?" for c in text)
