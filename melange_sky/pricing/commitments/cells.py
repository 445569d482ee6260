"""Cells of a file of one's own terms or instances: text to values, or the reason why not."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.clouds import cloud_name
from melange_sky.pricing.fields import read_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AHEAD = timedelta(days=1)
"""A date so far ahead is none: clocks and zones differ by less."""


class CellError(Exception):
    """One cell that cannot be used: the column, what is wrong and what to do, in a few words."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"'{column}' {problem}")


def text_cell(cells: Mapping[str, str], column: str) -> str:
    """Return a cell's text without the space around it, empty where there is none."""
    return (cells.get(column) or "").strip()


def needed_text(cells: Mapping[str, str], column: str) -> str:
    """Return the text of a cell that must not be empty."""
    text = text_cell(cells, column)
    if not text:
        raise CellError(column, "is empty")
    return text


def cloud_cell(cells: Mapping[str, str], also: Iterable[str]) -> str:
    """Return SkyPilot's name of the cloud in the column `cloud`, or the one of `also`."""
    try:
        return cloud_name(needed_text(cells, "cloud"), also)
    except InputError as error:
        raise CellError("cloud", f"holds an {error}") from error


def number_cell(
    cells: Mapping[str, str], column: str, *, default: float | None = None, least: float = 0.0
) -> float:
    """Return a number of at least `least`; `default` stands for an empty cell, None: it must not be."""
    text = text_cell(cells, column)
    if not text and default is not None:
        return default
    value = read_number(text)
    if value is None:
        raise CellError(column, f"is '{clip(text)}': write a number" if text else "is empty")
    if value < least:
        raise CellError(column, f"is {value:g}: write {least:g} or more")
    return value


def choice_cell(cells: Mapping[str, str], column: str, choices: tuple[str, ...]) -> str:
    """Return a cell that holds one of the choices."""
    text = needed_text(cells, column)
    if text not in choices:
        hint = did_you_mean(text, choices)
        raise CellError(column, f"is '{clip(text)}'{hint}: write {' or '.join(choices)}")
    return text


def moment_cell(
    cells: Mapping[str, str], column: str, *, whole_day: bool = False
) -> datetime | None:
    """Return a moment (aware), None for an empty cell. A date is its start in UTC, or its end (`whole_day`)."""
    text = text_cell(cells, column)
    if not text:
        return None
    try:
        if len(text) == 10:
            day = date.fromisoformat(text)
            start = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
            return start + timedelta(days=1) if whole_day else start
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except (ValueError, OverflowError):
        example = "2027-01-31 or 2027-01-31T08:00:00Z"
        raise CellError(column, f"is '{clip(text)}': write a date such as {example}") from None
    if moment.tzinfo is None:
        raise CellError(column, f"is '{clip(text)}': add Z or an offset such as +01:00")
    return moment


def past_cell(cells: Mapping[str, str], column: str, now: datetime) -> str | None:
    """Return a date as written (ISO 8601), None for an empty cell; one that is to come is refused."""
    text = text_cell(cells, column)
    moment = moment_cell(cells, column)
    if moment is not None and moment > now + AHEAD:
        raise CellError(column, f"is {text}, which is still to come")
    return text or None
