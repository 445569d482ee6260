"""A change under way, written down before it begins: what a watcher that was killed left to finish or take back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from melange_sky.errors import InputError
from melange_sky.planner.output_files import write_text

if TYPE_CHECKING:
    from pathlib import Path

INTENT_FILE = "watch-intent.json"
_FORMAT = 1
_LARGEST_BYTES = 256 * 1024 * 1024

Way = Literal["forth", "back"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A fleet goes `forth` from the plan `before` to the plan `after`, or `back`, `why` in a sentence.

    Plans are documents as plan.json holds them. `between` was gone to before more was needed, None where nothing
    was. `options` are those that could not be had.
    """

    way: Way
    before: dict[str, Any]
    after: dict[str, Any]
    why: str = ""
    options: tuple[str, ...] = ()
    between: dict[str, Any] | None = None

    @property
    def goal(self) -> dict[str, Any]:
        """The plan that the fleet goes to."""
        return self.after if self.way == "forth" else self.before

    def turned(self, why: str, options: tuple[str, ...]) -> Intent:
        """Return the way back."""
        return replace(self, way="back", why=why, options=options)

    def grown(self, after: dict[str, Any]) -> Intent:
        """Return the way to a larger fleet than that gone to so far."""
        return replace(self, between=self.after, after=after)

    def knows(self, document: dict[str, Any]) -> bool:
        """Return whether a plan is one that it may have written."""
        return document in (self.before, self.between, self.after)


def write_intent(folder: Path, intent: Intent) -> None:
    """Bring an intent to the disk, in place of an earlier one. Raises InputError where it cannot."""
    document = {
        "format": _FORMAT,
        "way": intent.way,
        "why": intent.why,
        "options": list(intent.options),
        "before": intent.before,
        "after": intent.after,
        "between": intent.between,
    }
    write_text(folder / INTENT_FILE, json.dumps(document, allow_nan=False) + "\n")
    _sync(folder / INTENT_FILE)
    _sync(folder)


def read_intent(folder: Path) -> Intent | None:
    """Return the change that is under way, None where none is. Raises InputError for what is none."""
    path = folder / INTENT_FILE
    try:
        if not path.exists():
            return None
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError
        found = json.loads(path.read_text(encoding="utf-8"))
        known = found["format"] == _FORMAT and found["way"] in ("forth", "back")
        if not known or not all(isinstance(found[name], dict) for name in ("before", "after")):
            raise ValueError
        between = found.get("between")
        if not isinstance(between, dict | None):
            raise ValueError
        return Intent(
            way=cast("Way", found["way"]),
            before=found["before"],
            after=found["after"],
            why=str(found["why"]),
            options=tuple(map(str, found["options"])),
            between=between,
        )
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path}: is no change that a watcher left; look at `melange-sky apply {folder} --dry-run`, "
            "then remove the file"
        ) from None


def end_intent(folder: Path) -> None:
    """Forget a change: it is finished, or taken back."""
    try:
        (folder / INTENT_FILE).unlink(missing_ok=True)
        _sync(folder)
    except OSError as error:
        raise InputError(
            f"{folder / INTENT_FILE}: cannot be removed: {error.strerror or error}"
        ) from error


def _sync(path: Path) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be brought to the disk: {error.strerror or error}"
        ) from error
