"""One client request from its parsed body to its last byte: tried, retried, streamed, counted."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from melange_sky.gateway.client_request import Refusal
from melange_sky.gateway.service import RequestSize
from melange_sky.gateway.stream import EventStream, Usage
from melange_sky.gateway.upstream import AttemptError, OpenStream, ReplicaAnswer
from melange_sky.routing import policy

if TYPE_CHECKING:
    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.client_request import ClientRequest
    from melange_sky.gateway.dispatch import Dispatcher
    from melange_sky.gateway.metrics import Metrics
    from melange_sky.gateway.service import Lease, Service
    from melange_sky.gateway.settings import ObservedSink, Settings
    from melange_sky.gateway.upstream import Upstream

log = logging.getLogger(__name__)

_BROKEN_EVENT = (
    b'data: {"error": {"message": "the replica ended the stream before its end", '
    b'"type": "server_error", "param": null, "code": "stream_broken"}}\n\n'
)


@dataclass(slots=True, eq=False, kw_only=True)
class RunningRequest:
    """A request under way: what the client asked for, and what was tried for it.

    `headers` go to the replica. `blocked_since_s` is when the client last stopped reading, None if it
    reads.
    """

    task: asyncio.Task[object] | None
    arrival_s: float
    request: ClientRequest
    size: RequestSize
    headers: dict[str, str]
    first_byte_s: float | None = None
    blocked_since_s: float | None = None
    attempts: int = 0
    tried: list[Backend] = field(default_factory=list)
    reused_once: bool = False
    last_error: AttemptError | None = None

    @property
    def request_id(self) -> str:
        """The id that replica and client see."""
        return self.headers["X-Request-Id"]


class Proxy:
    """Serves routed requests."""

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        dispatcher: Dispatcher,
        metrics: Metrics,
        observed: ObservedSink | None,
    ) -> None:
        """Keep what requests need."""
        self._settings, self._upstream, self._dispatcher = settings, upstream, dispatcher
        self._metrics, self._observed = metrics, observed
        self.under_way: set[RunningRequest] = set()

    async def serve(
        self,
        web_request: web.BaseRequest,
        service: Service,
        request: ClientRequest,
        headers: dict[str, str],
    ) -> web.StreamResponse:
        """Answer a request by a replica. Raises Refusal where none could."""
        arrival_s = asyncio.get_running_loop().time()
        tokens, estimated_from = await service.counter.count(request)
        running = RunningRequest(
            task=asyncio.current_task(),
            arrival_s=arrival_s,
            request=request,
            size=RequestSize(tokens, request.max_tokens, request.choices, estimated_from),
            headers=headers,
        )
        self.under_way.add(running)
        try:
            while True:
                lease = await self._lease(service, running)
                with self._dispatcher.held(lease):
                    result = await self._attempt(lease, running)
                    if isinstance(result, ReplicaAnswer):
                        return self._whole(result, lease, running)
                    if isinstance(result, OpenStream):
                        return await self._stream(web_request, result, lease, running)
        finally:
            self.under_way.discard(running)

    async def _lease(self, service: Service, running: RunningRequest) -> Lease:
        """Get a place for the next attempt, or end with what the last one said."""
        try:
            return await self._dispatcher.lease(service, running.size, running.tried)
        except Refusal:
            if running.last_error is None:
                raise
            raise _as_refusal(running.last_error) from None

    async def _attempt(
        self, lease: Lease, running: RunningRequest
    ) -> ReplicaAnswer | OpenStream | None:
        """Ask one replica; None where another may be tried. Raises Refusal where none may."""
        loop, backend = asyncio.get_running_loop(), lease.backend
        if running.attempts == 0:
            self._metrics.added_s.observe(loop.time() - running.arrival_s)
        running.attempts += 1
        try:
            result = await self._upstream.send(backend, running.request, running.headers)
        except AttemptError as error:
            self._metrics.failures.labels(lease.service.name, backend.option, error.kind).inc()
            log.info("%r: %s", backend, error.kind)
            if error.kind == "disconnected" and not running.reused_once:
                # An idle connection that the replica closed just now looks the same: ask once more.
                running.reused_once = True
                running.attempts -= 1
                return None
            self._count_against(lease, error)
            running.last_error = error
            running.tried.append(backend)
            if not error.retry or running.attempts >= self._settings.attempts:
                raise _as_refusal(error) from error
            return None
        if isinstance(result, ReplicaAnswer):
            backend.succeeded()
        running.first_byte_s = loop.time()
        return result

    def _count_against(self, lease: Lease, error: AttemptError) -> None:
        if error.gone:
            lease.backend.unreachable()
        self._blame(lease, error.blame)

    def _blame(self, lease: Lease, blame: bool = True) -> None:
        """Count a failure against a replica; if it is out now, its requests not begun go elsewhere."""
        now_s = asyncio.get_running_loop().time()
        if blame:
            lease.backend.failed(now_s, self._settings)
        if not lease.backend.healthy(now_s):
            lease.service.refresh_health(now_s)

    def _whole(self, answer: ReplicaAnswer, lease: Lease, running: RunningRequest) -> web.Response:
        if answer.status == 200:
            usage = Usage()
            usage.read(answer.body)
            self._finished(lease, usage, running)
        self._metrics.answers.labels(lease.service.name, str(answer.status)).inc()
        out = {"Content-Type": answer.content_type, "X-Request-Id": running.request_id}
        return web.Response(status=answer.status, body=answer.body, headers=out)

    async def _stream(
        self,
        web_request: web.BaseRequest,
        opened: OpenStream,
        lease: Lease,
        running: RunningRequest,
    ) -> web.StreamResponse:
        """Pass a stream on as it comes. Its end is clean only if the replica's was."""
        events = EventStream(running.request.hide_usage)
        response = web.StreamResponse(
            headers={
                "Content-Type": opened.content_type,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                "X-Request-Id": running.request_id,
            }
        )
        answers = self._metrics.answers
        try:
            await response.prepare(web_request)
            broken = await self._pass_on(opened, events, response, running)
            if broken is None:
                await response.write_eof(events.end())
                # Only an end is a success: else a replica that dies in every stream would stay in use.
                lease.backend.succeeded()
                self._finished(lease, _counted(events), running)
                answers.labels(lease.service.name, "200").inc()
                return response
            answers.labels(lease.service.name, "broken").inc()
            self._metrics.failures.labels(lease.service.name, lease.backend.option, broken).inc()
            self._blame(lease)
            await response.write(_BROKEN_EVENT)
            if web_request.transport is not None:
                web_request.transport.close()
            return response
        finally:
            # Closing, not releasing, a stream that has not ended is what stops the replica's work.
            opened.response.close()

    async def _pass_on(
        self,
        opened: OpenStream,
        events: EventStream,
        response: web.StreamResponse,
        running: RunningRequest,
    ) -> str | None:
        """Copy until the replica ends; return what broke, None for a clean end."""
        loop = asyncio.get_running_loop()
        content = opened.response.content
        chunk = opened.first
        while chunk:
            out = events.feed(chunk)
            if out:
                running.blocked_since_s = loop.time()
                await response.write(out)
                running.blocked_since_s = None
            try:
                chunk = await content.readany()
            except asyncio.TimeoutError:
                return "stream_timeout"
            except (aiohttp.ClientError, OSError):
                return "stream_broken"
        return None

    def _finished(self, lease: Lease, usage: Usage, running: RunningRequest) -> None:
        """Count a request that a replica served to its end, and learn from it."""
        service, option, size = lease.service, lease.backend.option, running.size
        now_s = asyncio.get_running_loop().time()
        metrics = self._metrics
        if running.first_byte_s is not None:
            metrics.ttft_s.labels(service.name, option).observe(
                running.first_byte_s - running.arrival_s
            )
        metrics.e2e_s.labels(service.name, option).observe(now_s - running.arrival_s)
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return
        prompt, output = usage.prompt_tokens, usage.completion_tokens
        each = max(0, round(output / max(size.choices, 1)))
        service.counter.learn(size.estimated_from_bytes, prompt)
        if lease.router is service.router:
            service.router.observe(lease.request_class, each)
        metrics.tokens.labels(service.name, option, "prompt").inc(prompt)
        metrics.tokens.labels(service.name, option, "output").inc(output)
        table = service.router.table
        metrics.requests.labels(
            service.name,
            option,
            service.input_buckets[policy.bucket(table.input_edges, prompt)],
            service.output_buckets[policy.bucket(table.output_edges, each)],
        ).inc()
        if self._observed is not None:
            self._observed.add(service.name, running.arrival_s, prompt, each)

    def end_stalled(self, now_s: float) -> None:
        """Give up on clients that have stopped reading for too long."""
        for running in tuple(self.under_way):
            since_s = running.blocked_since_s
            if since_s is not None and now_s - since_s > self._settings.stall_s and running.task:
                running.task.cancel()


def _counted(events: EventStream) -> Usage:
    """Return the stream's counts; where it gave none and no error, each event is taken for a token."""
    usage = events.usage
    if usage.completion_tokens is None and not events.failed:
        usage.completion_tokens = max(0, events.events - 1)
    return usage


def _as_refusal(error: AttemptError) -> Refusal:
    """Return what the client gets after the last attempt."""
    if error.kind == "busy":
        answer = error.answer
        status = 503 if answer is None else answer.status
        after_s = None if answer is None else answer.retry_after_s()
        return Refusal(
            status, "the replicas refuse requests now", "busy", retry_after_s=after_s or 1
        )
    if error.kind == "timeout":
        return Refusal(504, "no replica answered in time", "timeout")
    if error.answer is not None and error.answer.status == 500:
        return Refusal(500, "the replica failed on this request", "replica_error")
    return Refusal(502, "no replica could serve this request", "bad_gateway")
