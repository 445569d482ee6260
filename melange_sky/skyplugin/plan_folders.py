"""The plans in the folders that the server's owner named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from melange_sky.errors import MelangeError
from melange_sky.planfile import PLAN_FILE, load_plan
from melange_sky.plans import Plan

MOST_PLANS = 200
"""More folders in one named folder are not looked at: the page is for fleets that run."""

_FILE_LIMIT = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPlan:
    """A plan, and the folder that holds it."""

    plan: Plan
    folder: Path

    @property
    def id(self) -> str:
        """What routes call it: the fleet's id, else the plan's name."""
        return self.plan.fleet_id or self.plan.name


@dataclass(slots=True)
class PlanFolders:
    """Reads plans, each again only when its file has changed."""

    folders: tuple[Path, ...]
    _read: dict[Path, tuple[tuple[int, int], FoundPlan | str]] = field(default_factory=dict)

    def plans(self) -> tuple[tuple[FoundPlan, ...], tuple[str, ...]]:
        """Return the plans by name, and what could not be read, a sentence each."""
        found: dict[Path, FoundPlan | str] = {}
        problems = []
        for folder in self.folders:
            try:
                files = list(_plan_files(folder))
            except OSError as error:
                problems.append(f"{folder}: cannot be read ({error.strerror})")
                continue
            if not files:
                problems.append(f"{folder}: holds no plan.json, nor do the folders in it")
            found.update((file, self._plan(file)) for file in files)
        self._read = {file: self._read[file] for file in found if file in self._read}
        problems += [one for one in found.values() if isinstance(one, str)]
        plans = [one for one in found.values() if isinstance(one, FoundPlan)]
        plans.sort(key=lambda one: (one.plan.name, str(one.folder)))
        return tuple(plans), tuple(problems)

    def _plan(self, file: Path) -> FoundPlan | str:
        try:
            stat = file.stat()
        except OSError as error:
            return f"{file}: cannot be read ({error.strerror})"
        mark = (stat.st_mtime_ns, stat.st_size)
        known = self._read.get(file)
        if known is not None and known[0] == mark:
            return known[1]
        read = _load(file, stat.st_size)
        self._read[file] = (mark, read)
        return read


def _load(file: Path, size: int) -> FoundPlan | str:
    if size > _FILE_LIMIT:
        return f"{file}: is too large for a plan"
    try:
        return FoundPlan(plan=load_plan(file), folder=file.parent)
    except MelangeError as error:
        return " ".join(str(error).split())[:300]


def _plan_files(folder: Path) -> Iterator[Path]:
    if (folder / PLAN_FILE).is_file():
        yield folder / PLAN_FILE
        return
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    yield from (path / PLAN_FILE for path in inner[:MOST_PLANS] if (path / PLAN_FILE).is_file())
