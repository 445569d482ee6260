"""The workers of one gateway as one of them sees them: what each counted is had over a Unix socket.

Each keeps its sums in a file too, as it last told them, so that no sum falls when a worker dies or is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

State = dict[str, Any]
"""What a worker tells of itself: `id`, `sums` (`Metrics.state`) and `health`."""
_WAIT_S = 1.0
_MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What the workers that answered tell (`live`, the asked one first) and what others told last (`past`)."""

    live: Sequence[State]
    past: Sequence[State]


class Siblings:
    """Worker `number` of `count`, whose supervisor is the process `parent`; `folder` is theirs alone."""

    def __init__(self, folder: Path, number: int, count: int, salt: bytes) -> None:
        """Nothing is opened yet; made by the supervisor. Prompts are hashed with the same `salt` by all."""
        self._folder, self.number, self.count, self.salt = folder, number, count, salt
        self._parent = os.getpid()
        self._tell: Callable[[], State] = dict
        self._server: asyncio.AbstractServer | None = None

    @property
    def orphaned(self) -> bool:
        """Whether the supervisor is gone."""
        return os.getppid() != self._parent

    async def open(self, tell: Callable[[], State]) -> None:
        """Answer the others from now on with what `tell` returns."""
        self._tell = tell
        path = self._socket(self.number)
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._answer, path)

    async def close(self) -> None:
        """Keep the last sums and answer no more."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.state()
        self._socket(self.number).unlink(missing_ok=True)

    def state(self) -> State:
        """Return what this worker tells, and keep it on disk as the least that is ever told of it."""
        state = self._tell() | {"id": f"{self.number}-{os.getpid()}"}
        path = self._folder / f"{state['id']}.json"
        with contextlib.suppress(
            OSError
        ):  # it serves on where the folder was taken away or is full
            written = path.with_suffix(".new")
            written.write_text(json.dumps(state), encoding="utf-8")
            written.replace(path)
        return state

    async def gather(self) -> Gathered:
        """Ask all workers, for a second at most."""
        others = (n for n in range(self.count) if n != self.number)
        answers = await asyncio.gather(*map(self._ask, others))
        live = [self.state(), *(answer for answer in answers if answer is not None)]
        told = {state["id"] for state in live}
        paths = [path for path in sorted(self._folder.glob("*.json")) if path.stem not in told]
        kept = map(_kept, paths)
        return Gathered(live=live, past=[state for state in kept if state is not None])

    def _socket(self, number: int) -> Path:
        return self._folder / f"{number}.sock"

    async def _ask(self, number: int) -> State | None:
        try:
            return await asyncio.wait_for(_read(self._socket(number)), _WAIT_S)
        except (OSError, ValueError, asyncio.TimeoutError):
            return None

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(self.state()).encode())
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()


async def _read(path: Path) -> State:
    reader, writer = await asyncio.open_unix_connection(path, limit=_MOST_BYTES)
    try:
        state: State = json.loads(await reader.read())
        return state
    finally:
        writer.close()


def _kept(path: Path) -> State | None:
    try:
        state: State = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state


def health_of_all(gathered: Gathered, count: int) -> dict[str, object]:
    """Return the health of the asked worker, with what a rollout must know of all of them.

    `revision` is None until every worker answers and serves the same; requests that leave add up, and are
    None while a worker does not answer.
    """
    told = [state["health"] for state in gathered.live]
    own: State = told[0]
    revisions = {each["revision"] for each in told}
    whole = len(told) == count
    agreed = whole and len(revisions) == 1
    leaving = sum(each["leaving_requests"] for each in told)
    return own | {
        "revision": own["revision"] if agreed else None,
        "unanswered_options": max(each["unanswered_options"] for each in told),
        "leaving_requests": leaving if whole else None,
        "workers": count,
        "workers_answered": len(told),
    }
