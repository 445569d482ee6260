"""Which of several watchers a fleet follows, wherever they run: the one that changed it last.

The lock of `following` keeps watchers of one machine apart. Those of two machines share nothing but SkyServe, so each
leaves its mark with every service that it changes, and looks at all of them whenever it looks at the fleet. One that
finds a later mark of another ends; of two that changed the fleet at once the earlier. SkyServe has no lock to take,
so that this is noticed after a change, not before: a fleet may once have a replica too many, never two masters.
"""

from __future__ import annotations

import math
import platform
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from filelock import FileLock

from melange_sky import settings
from melange_sky.errors import InputError
from melange_sky.planner.clock import utc_text
from melange_sky.planner.output_files import write_text
from melange_sky.skyserve.watch_marks import WatchMark, mark_of

if TYPE_CHECKING:
    from melange_sky.skyserve import LiveService

HELD_S = 3600.0
"""So long after its last change a watcher is taken to be at work still by one that starts elsewhere."""

_ID_FILE = "id"


class TakenError(InputError):
    """Another watcher changed the fleet since: this one ends, and leaves everything as it is."""


@dataclass(slots=True, kw_only=True)
class Holding:
    """A watcher and the marks that it has seen, of one fleet. `watcher` is its id, the same at every start."""

    watcher: str
    host: str = field(default_factory=platform.node)
    clock: Callable[[], float] = time.time
    _newest: WatchMark | None = None
    _looked: bool = False

    def taken(self, services: Iterable[LiveService]) -> str | None:
        """Return in one line that another watcher has a fleet of these services, None where none has.

        At the first look a mark that is not of the last `HELD_S` is that of a watcher that is over.
        """
        marks = [mark for service in services if (mark := mark_of(service)) is not None]
        first, self._looked = not self._looked, True
        last = max(marks, key=lambda mark: mark.order, default=None)
        if last is None or (self._newest is not None and last.order <= self._newest.order):
            return None
        is_over = first and abs(self.clock() - last.at_s) >= HELD_S
        if last.watcher != self.watcher and not is_over:
            ends = f", or start this one after {_utc(last.at_s + HELD_S)}" if first else ""
            return (
                f"a watcher on {last.host or 'another machine'} changed this fleet at {_utc(last.at_s)}; "
                f"this one changes nothing more and ends: let one of the two watch{ends}"
            )
        self._newest = last
        return None

    def check(self, services: Iterable[LiveService]) -> None:
        """Raise TakenError where another watcher has the fleet."""
        said = self.taken(services)
        if said is not None:
            raise TakenError(said)

    def mark(self) -> WatchMark:
        """Return the mark of a change that is made now: later than any seen, whatever the clocks say."""
        least_s = -math.inf if self._newest is None else self._newest.at_s + 1
        self._newest = WatchMark(
            watcher=self.watcher, host=self.host, at_s=round(max(self.clock(), least_s), 3)
        )
        return self._newest


def own_id() -> str:
    """Return the id of this machine's watchers, made at the first call. Raises InputError where it cannot be kept."""
    path = settings.home_dir() / "watch" / _ID_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                write_text(path, uuid.uuid4().hex)
            return path.read_text(encoding="utf-8").strip()[:64]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be kept: {error}") from error


def _utc(time_s: float) -> str:
    return utc_text(datetime.fromtimestamp(time_s, timezone.utc))
