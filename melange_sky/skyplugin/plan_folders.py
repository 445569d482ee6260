"""The plans in the folders that the server's owner named, of the hour where a folder holds a schedule."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from melange_sky.errors import MelangeError
from melange_sky.planfile import PLAN_FILE, load_plan
from melange_sky.planner.reserving.document import RESERVE_FILE
from melange_sky.planner.scheduling.folder import Schedule, read_schedule
from melange_sky.plans import Plan
from melange_sky.skyplugin.watched import last_told

MOST_PLANS = 200
"""More folders in one named folder are not looked at: the page is for fleets that run."""

_FILE_LIMIT = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPlan:
    """A plan, the file that holds it, and the schedule that brings others of the same fleet, if any.

    `watched` is what the fleet's watcher last told, None where nobody watches.
    """

    plan: Plan
    file: Path
    schedule: Schedule | None = None
    watched: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """What routes call it: the fleet's id, else the plan's name."""
        return self.plan.fleet_id or self.plan.name


@dataclass(slots=True)
class PlanFolders:
    """Reads plans, each again only when its file has changed."""

    folders: tuple[Path, ...]
    _read: dict[Path, tuple[tuple[int, int], Plan | Schedule | str]] = field(default_factory=dict)

    def plans(self, now: datetime) -> tuple[tuple[FoundPlan, ...], tuple[str, ...]]:
        """Return the plans that serve now, by name, and what could not be read, a sentence each."""
        found, problems = [], []
        for what in self._files():
            if isinstance(what, str):
                problems.append(what)
                continue
            read = self._read_again(what)
            if isinstance(read, str):
                problems.append(read)
            elif isinstance(read, Plan):
                found.append(FoundPlan(plan=read, file=what, watched=last_told(what.parent)))
            else:
                fleet = read.fleets[read.timetable.fleet_at(now)]
                if fleet.plan is not None and fleet.file is not None:
                    found.append(FoundPlan(plan=fleet.plan, file=fleet.file, schedule=read))
        found.sort(key=lambda one: (one.plan.name, str(one.file)))
        return tuple(found), tuple(problems)

    def all_plans(self) -> tuple[Plan, ...]:
        """Return every plan that may serve at some hour: what a launch may have been planned by."""
        read = [self._read_again(what) for what in self._files() if isinstance(what, Path)]
        plans = [one for one in read if isinstance(one, Plan)]
        plans += [f.plan for one in read if isinstance(one, Schedule) for f in one.fleets if f.plan]
        return tuple(plans)

    def _files(self) -> list[Path | str]:
        """Return the files of plans and schedules, and a sentence for each folder without any."""
        found: list[Path | str] = []
        for folder in self.folders:
            try:
                inner = sorted(path for path in folder.iterdir() if path.is_dir())[:MOST_PLANS]
            except OSError as error:
                found.append(f"{folder}: cannot be read ({error.strerror})")
                continue
            own = _file_in(folder)
            files = [own] if own else [file for one in inner if (file := _file_in(one))]
            found += files or [f"{folder}: holds no {PLAN_FILE}, nor do the folders in it"]
        return found

    def _read_again(self, file: Path) -> Plan | Schedule | str:
        try:
            stat = file.stat()
        except OSError as error:
            return f"{file}: cannot be read ({error.strerror})"
        mark = (stat.st_mtime_ns, stat.st_size)
        known = self._read.get(file)
        if known is None or known[0] != mark:
            known = (mark, _load(file, stat.st_size))
            self._read[file] = known
        return known[1]


def _file_in(folder: Path) -> Path | None:
    """Return what a folder says is to run: its plan, else its schedule."""
    files = (folder / PLAN_FILE, folder / RESERVE_FILE)
    return next((file for file in files if file.is_file()), None)


def _load(file: Path, size: int) -> Plan | Schedule | str:
    if size > _FILE_LIMIT:
        return f"{file}: is too large for a plan"
    try:
        return load_plan(file) if file.name == PLAN_FILE else read_schedule(file.parent)
    except MelangeError as error:
        return " ".join(str(error).split())[:300]
