"""Several workers on one port (SO_REUSEPORT): started, watched, started again, drained. The parent serves nothing.

A worker's event loop says every second that it turns. One that has been silent for long hangs, with its share
of the new connections: it is killed and started again, as one that ended is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, MelangeError
from melange_sky.gateway.siblings import Siblings

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess
    from types import FrameType

    from melange_sky.gateway.settings import ObservedSink
    from melange_sky.reuse import SeenPrompt

log = logging.getLogger(__name__)

_BLOCKED = (signal.SIGTERM, signal.SIGINT)
_LOOK_S = 0.2
_BATCH_S = 0.05
_BEAT_S = 1.0
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.1, 10.0
_STEADY_S = 30.0
"""A worker that ran so long starts again without a longer pause."""
_KILL_AFTER_S = 5.0
_MOST_FOLDER = 80
"""Characters of a folder whose sockets' paths fit into the 108 that Linux takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a worker is told: its siblings, the port (0: the first worker takes a free one), and whom to tell.

    `first` is the first worker at the start of all: it alone checks that nobody else has the port.
    """

    siblings: Siblings
    port: int
    first: bool
    outbox: Outbox

    def started(self, port: int, what: object) -> None:
        """Tell the parent that requests are taken, and from now on that the running loop turns."""
        self.outbox.tell(("started", (port, what)))
        self._beat(asyncio.get_running_loop())

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self.outbox.tell(("turns", None))
        loop.call_later(_BEAT_S, self._beat, loop)


class Outbox:
    """Sends to the parent from a thread, so that no request waits for a full pipe."""

    def __init__(self, pipe: Connection) -> None:
        """Start sending; call within the worker."""
        self._pipe = pipe
        self._queue: queue.SimpleQueue[tuple[str, Any] | threading.Event] = queue.SimpleQueue()
        threading.Thread(target=self._send, daemon=True).start()

    def tell(self, message: tuple[str, Any]) -> None:
        """Send a kind and what belongs to it."""
        self._queue.put(message)

    def add(
        self,
        model: str,
        arrival_s: float,
        input_tokens: int,
        output_tokens: int,
        prompt: SeenPrompt | None = None,
    ) -> None:
        """Let the parent count a finished request (`ObservedSink`)."""
        self.tell(("seen", (model, arrival_s, input_tokens, output_tokens, prompt)))

    def write(self) -> None:
        """Wait until all is sent: the parent writes."""
        sent = threading.Event()
        self._queue.put(sent)
        sent.wait(5.0)

    def _send(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < 1000:
                    batch.append(self._queue.get_nowait())
            messages = [each for each in batch if not isinstance(each, threading.Event)]
            with contextlib.suppress(OSError):  # the parent is gone: the worker will end
                self._pipe.send(messages)
            waiting = [each for each in batch if isinstance(each, threading.Event)]
            for each in waiting:
                each.set()
            if not waiting:
                time.sleep(_BATCH_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """How many workers there are, from which port, how long they drain; `observed` counts for all of them.

    `serve` runs one worker, in a process of its own. One that is silent for `hung_s` is started anew.
    """

    workers: int
    port: int
    drain_s: float
    observe_every_s: float
    observed: ObservedSink | None
    serve: Callable[[Place], None]
    hung_s: float = 15.0


@dataclass(slots=True)
class _Worker:
    number: int
    process: ForkProcess
    pipe: Connection
    began_s: float
    heard_s: float
    ready: bool = False
    failure: str | None = None


def require_workers() -> None:
    """Raise InputError where the system does not share a port among processes as is needed."""
    if sys.platform != "linux":
        raise InputError(
            "--workers: more than one worker needs Linux; start several gateways with --gateways N "
            "behind a proxy (examples/front)"
        )


def run_workers(crew: Crew, announce: Callable[[Any], None]) -> None:
    """Run workers until SIGTERM or SIGINT, then drain them. `announce` gets what the first said at its start.

    Raises InputError where a worker cannot start at first; one that ends later is started again.
    """
    require_workers()
    _Supervisor(crew).run(announce)


class _Supervisor:
    def __init__(self, crew: Crew) -> None:
        self._crew, self._port = crew, crew.port
        self._workers: dict[int, _Worker] = {}
        self._due_s: dict[int, float] = {}
        self._pause_s: dict[int, float] = {}
        self._asked = 0
        self._salt = os.urandom(16)
        self._said: object = None
        self._up = False
        self._looked_s = time.monotonic()
        self._next_write_s = self._looked_s + crew.observe_every_s

    def run(self, announce: Callable[[Any], None]) -> None:
        own = tempfile.gettempdir()
        self._folder = Path(
            tempfile.mkdtemp(prefix="gateway-", dir=own if len(own) < _MOST_FOLDER else "/tmp")
        )
        names = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {name: signal.signal(name, self._signalled) for name in names}
        try:
            self._start_all()
            if not self._asked:
                self._up = True
                announce(self._said)
            while not self._asked:
                self._look()
            self._drain()
        finally:
            self._kill()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._write_observed()
            for name, handler in before.items():
                signal.signal(name, handler)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._send(signal.SIGHUP)
            return
        self._asked += 1
        if self._asked > 1:
            self._send(signal.SIGUSR2)

    def _send(self, number: signal.Signals) -> None:
        for worker in tuple(self._workers.values()):
            if worker.ready and worker.process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.process.pid, number)

    def _start_all(self) -> None:
        """Start the first, which finds what is wrong and takes the port, then the others."""
        for group in ([0], range(1, self._crew.workers)):
            for number in group:
                self._begin(number)
            while not self._asked and not all(self._workers[n].ready for n in group):
                self._look()

    def _begin(self, number: int) -> None:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        siblings = Siblings(self._folder, number, self._crew.workers, self._salt)
        first = number == 0 and not self._up
        process = multiprocessing.get_context("fork").Process(
            target=self._serve, args=(siblings, theirs, first), daemon=True
        )
        # Until the worker has put its own handlers in place, a signal to it would be lost in ours.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        now_s = time.monotonic()
        self._workers[number] = _Worker(number, process, ours, now_s, now_s)

    def _serve(self, siblings: Siblings, pipe: Connection, first: bool) -> None:
        """Be a worker."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent alone acts
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
        outbox = Outbox(pipe)
        try:
            self._crew.serve(Place(siblings=siblings, port=self._port, first=first, outbox=outbox))
        except MelangeError as error:
            outbox.tell(("failed", str(error)))
            outbox.write()
            sys.exit(1)
        outbox.write()

    def _look(self) -> None:
        """Take what workers say, replace those that ended or hang, write what was observed."""
        ours: list[Any] = [w.process.sentinel for w in self._workers.values()]
        ours += [w.pipe for w in self._workers.values() if not w.pipe.closed]
        ready = set(wait(ours, _LOOK_S))
        if not ours:
            time.sleep(_LOOK_S)
        for worker in tuple(self._workers.values()):
            if worker.pipe in ready:
                self._hear(worker)
            if worker.process.sentinel in ready:
                self._ended(worker)
        now_s = time.monotonic()
        self._kill_hung(now_s)
        for number in [n for n, due_s in self._due_s.items() if due_s <= now_s and not self._asked]:
            del self._due_s[number]
            self._begin(number)
        if now_s >= self._next_write_s:
            self._write_observed()
            self._next_write_s = time.monotonic() + self._crew.observe_every_s

    def _kill_hung(self, now_s: float) -> None:
        paused = now_s - self._looked_s > self._crew.hung_s / 2  # the whole machine was, say
        self._looked_s = now_s
        for worker in self._workers.values():
            if paused or not worker.ready or self._asked:
                worker.heard_s = now_s
            elif now_s - worker.heard_s > self._crew.hung_s:
                log.error("worker %d hangs: it is killed", worker.number)
                worker.process.kill()
                worker.heard_s = now_s

    def _hear(self, worker: _Worker) -> None:
        try:
            while not worker.pipe.closed and worker.pipe.poll():
                worker.heard_s = time.monotonic()
                for kind, what in worker.pipe.recv():
                    self._take(worker, kind, what)
        except (EOFError, OSError):
            worker.pipe.close()

    def _take(self, worker: _Worker, kind: str, what: Any) -> None:
        if kind == "seen":
            if self._crew.observed is not None:
                self._crew.observed.add(*what)
        elif kind == "started":
            worker.ready = True
            self._port, said = what
            self._said = self._said or said
        elif kind == "failed":
            worker.failure = what

    def _ended(self, worker: _Worker) -> None:
        self._hear(worker)
        worker.process.join()
        worker.pipe.close()
        del self._workers[worker.number]
        if self._asked:
            return
        code = worker.process.exitcode or 0
        reason = worker.failure or (f"signal {-code}" if code < 0 else f"exit code {code}")
        if not self._up:
            raise InputError(worker.failure or f"a worker ended at its start: {reason}")
        now_s = time.monotonic()
        steady = now_s - worker.began_s > _STEADY_S
        pause_s = _LEAST_PAUSE_S if steady else self._pause_s.get(worker.number, _LEAST_PAUSE_S)
        self._pause_s[worker.number] = min(2 * pause_s, _MOST_PAUSE_S)
        self._due_s[worker.number] = now_s + pause_s
        log.error("worker %d ended (%s); it starts again in %.1f s", worker.number, reason, pause_s)

    def _drain(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        if self._asked > 1:
            self._send(signal.SIGUSR2)
        deadline_s = time.monotonic() + self._crew.drain_s + _KILL_AFTER_S
        while self._workers and time.monotonic() < deadline_s:
            self._look()

    def _kill(self) -> None:
        self._asked += 1
        for worker in tuple(self._workers.values()):
            worker.process.kill()
            worker.process.join()
            self._ended(worker)

    def _write_observed(self) -> None:
        if self._crew.observed is None:
            return
        try:
            self._crew.observed.write()
        except (MelangeError, OSError) as error:
            log.error("what was observed could not be written: %s", error)
