"""Open-loop load: each request is sent at its own absolute time, whatever became of the others."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
import numpy as np

from melange_sky.profiler.endpoint import (
    Endpoint,
    StreamBroken,
    StreamReader,
    http_problem,
)
from melange_sky.profiler.metrics import (
    ServerMetrics,
    read_bounded,
    until_idle,
    watch_metrics,
)
from melange_sky.slo import RequestLog, RequestRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMED_OUT = "timed out"
NOT_SENT = "not sent: the endpoint had failed"
# Below the 5 s after which common servers close idle connections: a reused one must be alive.
_KEEPALIVE_S = 3.0
_BEAT_S = 0.02
_LOOK_S = 1.0
_LEAST_SETTLE_S = 0.5
_MOST_SETTLE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadToSend:
    """What to send: bodies with their due times (seconds from the start) and sizes in tokens.

    After `give_up_after` failures in a row that are no timeouts, the rest is not sent.
    """

    bodies: Sequence[bytes]
    due_s: NDArray[np.float64]
    input_tokens: int
    output_tokens: int
    give_up_after: int = 25


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadOutcome:
    """What became of a load. `lateness_s`, shape (requests,): sent − due.

    `lag_s`: how late the client's own clock ticks came, shape (ticks,): a client that is late to
    read inflates latencies even where it sent on time. `errors` counts error texts. `models`, one per
    request: the name by which it was answered, None where nothing came.
    """

    log: RequestLog
    lateness_s: NDArray[np.float64]
    lag_s: NDArray[np.float64]
    errors: Counter[str]
    models: tuple[str | None, ...]
    server: ServerMetrics | None
    cpu_s: float
    wall_s: float


@dataclass(slots=True, kw_only=True)
class _Run:
    endpoint: Endpoint
    load: LoadToSend
    session: aiohttp.ClientSession
    start_s: float
    records: list[RequestRecord | None]
    models: list[str | None]
    lateness_s: NDArray[np.float64]
    in_a_row: int = 0
    stopped_at: int | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    def of(cls, endpoint: Endpoint, load: LoadToSend, session: aiohttp.ClientSession) -> _Run:
        """Return a run that is about to start."""
        count = len(load.bodies)
        return cls(
            endpoint=endpoint,
            load=load,
            session=session,
            start_s=time.perf_counter() + 0.01,
            records=[None] * count,
            models=[None] * count,
            lateness_s=np.zeros(count),
        )

    def ended_records(self) -> list[RequestRecord]:
        """Return every request's record, or those before the first one under way when it was stopped."""
        records = [
            _unsent(self.load, i) if record is None else record
            for i, record in enumerate(self.records)
        ]
        return records if self.stopped_at is None else records[: self.stopped_at]

    @property
    def given_up(self) -> bool:
        return self.in_a_row >= self.load.give_up_after

    def answered(self) -> list[RequestRecord]:
        """Return the requests before the first that is still under way."""
        first = next((k for k, r in enumerate(self.records) if r is None), len(self.records))
        return [r for r in self.records[:first] if r is not None]

    async def send_all(self) -> None:
        for index, due in enumerate(self.load.due_s.tolist()):
            wait = self.start_s + due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            if self.given_up:
                break
            self.tasks.append(asyncio.create_task(self._send(index, due)))
        if self.tasks:
            await asyncio.gather(*self.tasks)

    async def _send(self, index: int, due: float) -> None:
        sent = time.perf_counter()
        self.lateness_s[index] = sent - self.start_s - due
        reader, error = StreamReader(), None
        try:
            await self._exchange(self.load.bodies[index], reader)
        except StreamBroken as broken:
            error = str(broken)
        except asyncio.TimeoutError:
            error = TIMED_OUT
        except (aiohttp.ClientError, OSError) as problem:
            error = f"connection failed: {type(problem).__name__}"
        self.models[index] = reader.model
        self.in_a_row = self.in_a_row + 1 if error not in (None, TIMED_OUT) else 0
        self.records[index] = RequestRecord(
            arrival_s=sent - self.start_s,
            input_tokens=reader.prompt_tokens or self.load.input_tokens,
            output_tokens=reader.completion_tokens or 0,
            first_token_s=None if reader.first_s is None else reader.first_s - self.start_s,
            last_token_s=None if reader.last_s is None else reader.last_s - self.start_s,
            error=error,
        )

    async def _exchange(self, body: bytes, reader: StreamReader) -> None:
        url = f"{self.endpoint.base}/v1/completions"
        async with self.session.post(url, data=body, allow_redirects=False) as response:
            if response.status != 200:
                raise StreamBroken(
                    http_problem(response.status, await read_bounded(response, 4096))
                )
            async for data in response.content.iter_any():
                reader.feed(data, time.perf_counter())
        reader.close(self.load.output_tokens, time.perf_counter())


async def run_load(
    endpoint: Endpoint, load: LoadToSend, stop: Callable[[RequestLog], bool] | None = None
) -> LoadOutcome:
    """Send the load and wait until every request has ended, each bounded by the timeout.

    Failed requests are counted and never sent again. `stop` is asked once a second, with the requests
    that were sent before the first one still under way; where it says so, the rest is given up and the
    outcome holds these requests alone. The server may still be at work on what was given up: then this
    waits for some seconds more until it says that it is idle.
    """
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)
    timeout = aiohttp.ClientTimeout(total=endpoint.timeout_s)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=endpoint.headers
    ) as session:
        run = _Run.of(endpoint, load, session)
        lag_s, server = await _send_watched(run, stop)
        if run.stopped_at is not None:
            await until_idle(session, endpoint, _settle_s(run))
    records = run.ended_records()
    return LoadOutcome(
        log=RequestLog.from_records(records),
        lateness_s=run.lateness_s[: len(records)],
        lag_s=np.array(lag_s),
        errors=Counter(r.error for r in records if r.error is not None),
        models=tuple(run.models[: len(records)]),
        server=server,
        cpu_s=time.process_time() - cpu_s,
        wall_s=time.perf_counter() - wall_s,
    )


async def _send_watched(
    run: _Run, stop: Callable[[RequestLog], bool] | None
) -> tuple[list[float], ServerMetrics | None]:
    """Send the load; return how late the client's ticks came and what the server said meanwhile."""
    lag_s: list[float] = []
    beat = asyncio.create_task(_heartbeat(lag_s))
    watch = asyncio.create_task(watch_metrics(run.session, run.endpoint))
    sending = asyncio.create_task(run.send_all())
    try:
        await _until_done(sending, run, stop)
    finally:
        for task in (sending, beat, watch, *run.tasks):
            task.cancel()
        ended = await asyncio.gather(beat, watch, sending, *run.tasks, return_exceptions=True)
    return lag_s, ended[1] if isinstance(ended[1], ServerMetrics) else None


async def _until_done(
    sending: asyncio.Task[None], run: _Run, stop: Callable[[RequestLog], bool] | None
) -> None:
    """Wait until all has been answered or `stop` has seen enough."""
    while True:
        done, _ = await asyncio.wait({sending}, timeout=_LOOK_S)
        if done:
            return sending.result()
        if stop is None or run.given_up:
            continue
        answered = run.answered()
        if stop(RequestLog.from_records(answered)):
            run.stopped_at = len(answered)
            return None


def _settle_s(run: _Run) -> float:
    """Return about how long an answer takes, within bounds."""
    ends = [r.last_token_s - r.arrival_s for r in run.answered() if r.last_token_s is not None]
    return min(max(float(np.median(ends)) if ends else 0.0, _LEAST_SETTLE_S), _MOST_SETTLE_S)


def _unsent(load: LoadToSend, index: int) -> RequestRecord:
    return RequestRecord(
        arrival_s=float(load.due_s[index]),
        input_tokens=load.input_tokens,
        output_tokens=0,
        first_token_s=None,
        last_token_s=None,
        error=NOT_SENT,
    )


async def _heartbeat(lag_s: list[float]) -> None:
    """Note how late each tick of a steady beat is: the client's own slowness."""
    while True:
        due = time.perf_counter() + _BEAT_S
        await asyncio.sleep(_BEAT_S)
        lag_s.append(max(0.0, time.perf_counter() - due))
