"""A module of this package run as a process of its own, for what imports `sky`.

To import SkyPilot takes seconds, and it prints: it has no place in the planner's own process. The module
reads one JSON value from stdin and answers with marked lines of JSON on stdout, between whatever SkyPilot
prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from melange_sky import settings

_MARK = "ANSWER "


@dataclass(slots=True)
class SkyProcess:
    """A running child; started beside other work, asked for its answers when that is done."""

    _child: subprocess.Popen[str]
    _request: str = field(repr=False)

    @classmethod
    def start(cls, module: str, request: object) -> SkyProcess | None:
        """Start ``python -m module`` with a request; None where no process can be started."""
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=settings.for_sky(),
                start_new_session=True,  # a cloud's own command line is ended with it
            )
        except OSError:
            return None
        return cls(child, json.dumps(request))

    def answers(self, deadline_s: float) -> tuple[list[Any], bool]:
        """Return what it answered within so many seconds, and whether it came to its end by itself."""
        ended = True
        try:
            out, _ = self._child.communicate(self._request, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            out, ended = self.stop(), False
        found = []
        for line in out.splitlines():
            if line.startswith(_MARK):
                with contextlib.suppress(ValueError):  # the last one may be cut
                    found.append(json.loads(line[len(_MARK) :]))
        return found, ended and self._child.returncode == 0

    def stop(self) -> str:
        """End the child and what it started, and return what it had printed: nobody waits for it any more."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        out, _ = self._child.communicate()
        return out


def read_request() -> Any:
    """Return what the parent asks."""
    return json.load(sys.stdin)


def answer(found: object) -> None:
    """Give the parent one answer."""
    sys.stdout.write(f"\n{_MARK}{json.dumps(found)}\n")
    sys.stdout.flush()
