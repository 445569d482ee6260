"""Instances that are paid for already: a user's ``--owned owned.csv``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.commitments import Owned
from melange_sky.errors import clip
from melange_sky.pricing.commitments.cells import (
    CellError,
    cloud_cell,
    moment_cell,
    needed_text,
    number_cell,
    text_cell,
)
from melange_sky.pricing.commitments.own_table import read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

COLUMNS = ("cloud", "region", "instance_type", "count", "until")
OPTIONAL = ("hourly_if_idle",)
MOST_INSTANCES = 100_000


def read_owned(path: Path, also: Iterable[str] = ()) -> tuple[Owned, ...]:
    """Return the instances of a file. Raises InputError with a line per fault.

    A date in `until` counts whole (UTC); empty: they stay. `also` are clouds beside SkyPilot's: those of
    the user's own offers.
    """
    clouds = tuple(also)
    return read_table(path, COLUMNS, OPTIONAL, lambda cells, where: _owned(cells, where, clouds))[0]


def _owned(cells: Mapping[str, str], where: str, clouds: tuple[str, ...]) -> Owned:
    count = number_cell(cells, "count", least=1)
    if count != int(count) or count > MOST_INSTANCES:
        said = clip(text_cell(cells, "count"))
        raise CellError("count", f"is '{said}': write a whole number of instances")
    return Owned(
        cloud=cloud_cell(cells, clouds),
        region=text_cell(cells, "region"),
        instance_type=needed_text(cells, "instance_type"),
        count=int(count),
        until=moment_cell(cells, "until", whole_day=True),
        idle_usd_per_hour=number_cell(cells, "hourly_if_idle", default=0.0),
        where=where,
    )
