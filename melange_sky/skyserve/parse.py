"""SkyPilot's own parser over services that a spec's fields were put into, in a process of its own.

Run as ``python -m melange_sky.skyserve.parse``: documents as a JSON list on stdin, and on the last line of
stdout a JSON list of what SkyPilot says against each, null for nothing. To import `sky` takes seconds, and
its parser prints: it has no place in the planner's own process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange_sky import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

DEADLINE_S = 120.0
"""SkyPilot's import takes 2 to 11 s; a machine under load several times that."""

_MARK = "PARSED "


@dataclass(slots=True)
class SkyParser:
    """A running check; started beside other work, asked for its verdicts when that is done."""

    _child: subprocess.Popen[str]
    _documents: str = field(repr=False)

    @classmethod
    def start(cls, documents: Sequence[dict[str, Any]]) -> SkyParser | None:
        """Start the check of whole task documents; None where no process can be started."""
        text = json.dumps(list(documents))
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", __spec__.name if __spec__ else __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=settings.for_sky(),
            )
        except OSError:
            return None
        return cls(child, text)

    def verdicts(self) -> list[str | None] | None:
        """Return what SkyPilot says against each document; None where it could not be asked."""
        try:
            out, _ = self._child.communicate(self._documents, timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.stop()
            return None
        last = out.rpartition(_MARK)[2] if _MARK in out else ""
        try:
            found: list[str | None] = json.loads(last)
        except ValueError:
            return None
        return found

    def stop(self) -> None:
        """End the check: nobody waits for it any more."""
        self._child.kill()
        self._child.communicate()


def judge(document: dict[str, Any]) -> str | None:
    """Return why SkyPilot refuses a service's document, None where it takes it."""
    import sky
    from sky.serve import serve_utils

    try:
        task = sky.Task.from_yaml_config(document)
        task.validate_name()
        task.expand_and_validate_workdir()
        task.expand_and_validate_file_mounts()
        serve_utils.validate_service_task(task, pool=False)
    except Exception as error:  # noqa: BLE001 - whatever a parser of untrusted data raises is its verdict
        return " ".join(str(error).split())[:500] or type(error).__name__
    return None


def main() -> None:
    """Judge the documents of stdin."""
    documents = json.load(sys.stdin)
    found = [judge(document) for document in documents]
    sys.stdout.write(f"\n{_MARK}{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
