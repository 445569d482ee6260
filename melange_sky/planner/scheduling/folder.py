"""A reserve folder as a schedule: its fleets, when each serves, and how long a replica takes to start."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from melange_sky.errors import InputError
from melange_sky.planfile import load_plan
from melange_sky.planner.reserving.document import RESERVE_FILE
from melange_sky.planner.timetable import TICK_S, Timetable, cycle_of, startup_of
from melange_sky.rendering import service_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import Plan

log = logging.getLogger(__name__)

_LARGEST_BYTES = 64 * 1024 * 1024

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class _Demand(_Part):
    start: AwareDatetime | None
    step_s: Positive


class _Period(_Part):
    hours: list[Annotated[int, Field(ge=0)]]
    plan: str | None
    rate_rps: Annotated[float, Field(ge=0)]


class _Reserve(_Part):
    name: str
    startup_s: Annotated[float, Field(ge=0)] = 0.0
    demand: _Demand
    periods: list[_Period]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledFleet:
    """What serves in some hours: its plan and its file, both None where nothing runs."""

    rate_rps: float
    file: Path | None
    plan: Plan | None

    @property
    def counts(self) -> dict[str, int]:
        """Replicas by service."""
        if self.plan is None:
            return {}
        return {
            service_name(model, allocation): allocation.instances
            for model in self.plan.models
            for allocation in model.allocations
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The fleets of a reserve folder over time; `startup_origin` says where the start-up time is from."""

    folder: Path
    name: str
    fleets: tuple[ScheduledFleet, ...]
    timetable: Timetable
    startup_s: float
    startup_origin: str

    @property
    def repeats(self) -> str:
        """What the timetable repeats outside the demand."""
        return "week" if self.timetable.cycle * self.timetable.step_s > 86_400 else "day"

    @property
    def fleet_id(self) -> str | None:
        """The id that all services of the folder bear."""
        return next((f.plan.fleet_id for f in self.fleets if f.plan is not None), None)


def read_schedule(folder: Path, startup_s: float | None = None) -> Schedule:
    """Return the schedule of a folder that `reserve` wrote; `startup_s` in place of what it says.

    Raises InputError, one line for each thing that is wrong, naming file and key.
    """
    file = folder / RESERVE_FILE
    document = _document(file)
    fleets = tuple(_fleet(folder, file, n, period) for n, period in enumerate(document.periods))
    ids = {fleet.plan.fleet_id for fleet in fleets if fleet.plan is not None}
    if len(ids) > 1:
        raise InputError(f"{file}: periods: their plans are of several fleets; run `reserve` again")
    if not ids:
        raise InputError(f"{file}: periods: nothing ever runs, so there is nothing to schedule")
    ahead_s, origin = startup_of(startup_s, document.startup_s, RESERVE_FILE)
    log.info("read %s: %d fleets, replicas take %g s (%s)", file, len(fleets), ahead_s, origin)
    return Schedule(
        folder=folder,
        name=document.name,
        fleets=fleets,
        timetable=_timetable(file, document, fleets, ahead_s + TICK_S),
        startup_s=ahead_s,
        startup_origin=origin,
    )


def _document(file: Path) -> _Reserve:
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{file}: is too large for a reserve.json")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"{file}: is missing: a schedule is made of a folder that `melange-sky reserve` wrote"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    try:
        return _Reserve.model_validate(json.loads(text))
    except ValidationError as error:
        lines = [
            f"{file}: {'.'.join(map(str, problem['loc'])) or 'top level'}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise InputError(*lines[:10]) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is no JSON: {str(error)[:150]}") from error


def _fleet(folder: Path, file: Path, number: int, period: _Period) -> ScheduledFleet:
    if period.plan is None:
        return ScheduledFleet(rate_rps=period.rate_rps, file=None, plan=None)
    if Path(period.plan).name != period.plan:
        raise InputError(f"{file}: periods.{number}.plan: must be a file in the folder")
    path = folder / period.plan
    return ScheduledFleet(rate_rps=period.rate_rps, file=path, plan=load_plan(path))


def _timetable(
    file: Path, document: _Reserve, fleets: Sequence[ScheduledFleet], ahead_s: float
) -> Timetable:
    demand = document.demand
    if demand.start is None:
        raise InputError(f"{file}: demand.start: the demand has no dates, so no hour of the week")
    by_step = {step: n for n, period in enumerate(document.periods) for step in period.hours}
    steps = sum(len(period.hours) for period in document.periods)
    if sorted(by_step) != list(range(steps)):
        raise InputError(f"{file}: periods.hours: must hold every step from 0 on once")
    cycle = cycle_of(steps, demand.step_s)
    if cycle is None:
        hours = steps * demand.step_s / 3600
        raise InputError(
            f"{file}: demand: {hours:g} hours in steps of {demand.step_s:g} s cannot be repeated: a schedule needs a "
            "day, or a week or more, in steps that divide it"
        )
    return Timetable(
        start=demand.start,
        step_s=demand.step_s,
        fleets=[by_step[step] for step in range(steps)],
        cycle=cycle,
        counts=[fleet.counts for fleet in fleets],
        ahead_s=ahead_s,
    )
