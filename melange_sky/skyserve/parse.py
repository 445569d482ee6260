"""SkyPilot's own parser over services that a spec's fields were put into, in a process of its own.

Run as ``python -m melange_sky.skyserve.parse``: documents as a list, answered by a list of what SkyPilot
says against each, null for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky.skyserve.child import SkyProcess, answer, read_request

if TYPE_CHECKING:
    from collections.abc import Sequence

DEADLINE_S = 120.0
"""SkyPilot's import takes 2 to 11 s; a machine under load several times that."""


@dataclass(slots=True)
class SkyParser:
    """A running check; started beside other work, asked for its verdicts when that is done."""

    _process: SkyProcess

    @classmethod
    def start(cls, documents: Sequence[dict[str, Any]]) -> SkyParser | None:
        """Start the check of whole task documents; None where no process can be started."""
        process = SkyProcess.start(__name__, list(documents))
        return None if process is None else cls(process)

    def verdicts(self) -> list[str | None] | None:
        """Return what SkyPilot says against each document; None where it could not be asked."""
        answers, _ = self._process.answers(DEADLINE_S)
        return answers[-1] if answers else None

    def stop(self) -> None:
        """End the check: nobody waits for it any more."""
        self._process.stop()


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


if __name__ == "__main__":
    answer([judge(document) for document in read_request()])
