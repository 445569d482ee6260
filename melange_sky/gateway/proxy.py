"""One client request from its parsed body to its last byte: tried, retried, streamed, counted."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from melange_sky.gateway.accounting import Accounts, Finished
from melange_sky.gateway.answers import ReplicaAnswer
from melange_sky.gateway.backend import VACANT
from melange_sky.gateway.client_request import Refusal
from melange_sky.gateway.own_limits import OwnLimitError
from melange_sky.gateway.relay import Relay
from melange_sky.gateway.retries import RetryBudget
from melange_sky.gateway.running import RunningRequest, as_refusal, out_of
from melange_sky.gateway.stream import EventStream
from melange_sky.gateway.upstream import AttemptError, OpenStream

if TYPE_CHECKING:
    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.calls import Call
    from melange_sky.gateway.client_request import ClientRequest
    from melange_sky.gateway.dispatch import Dispatcher
    from melange_sky.gateway.metrics import Metrics
    from melange_sky.gateway.service import Lease, Service
    from melange_sky.gateway.sessions import Sessions
    from melange_sky.gateway.settings import ObservedSink, Settings
    from melange_sky.gateway.upstream import ForwardedHeaders, Upstream

log = logging.getLogger(__name__)

_MOMENT_S = 0.2
_BROKEN_EVENT = (
    b'data: {"error": {"message": "the replica ended the stream before its end", '
    b'"type": "server_error", "param": null, "code": "stream_broken"}}\n\n'
)


class Proxy:
    """Serves routed requests."""

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        dispatcher: Dispatcher,
        metrics: Metrics,
        observed: ObservedSink | None,
        sessions: Sessions,
    ) -> None:
        """Keep what requests need; call within a running loop."""
        self._loop = asyncio.get_running_loop()
        self._sessions = sessions
        self._settings, self._upstream, self._dispatcher = settings, upstream, dispatcher
        self._metrics, self._accounts = metrics, Accounts(metrics, observed, sessions)
        self.under_way: set[RunningRequest] = set()
        self.retries = RetryBudget(settings, lambda: len(self.under_way))

    async def serve(
        self, call: Call, service: Service, request: ClientRequest, headers: ForwardedHeaders
    ) -> None:
        """Answer a call by a replica. Raises Refusal where none could."""
        arrival_s = self._loop.time()
        session = self._sessions.of(
            service.seating.affinity, call.header(self._sessions.header), request
        )
        size = await service.size_of(request, session)
        running = RunningRequest(
            task=asyncio.current_task(self._loop),
            call=call,
            arrival_s=arrival_s,
            request=request,
            size=size,
            request_id=headers.request_id,
            headers=headers.lines,
        )
        self.under_way.add(running)
        try:
            answered = await self._try_once(service, running)
            while not answered:
                answered = await self._try_again(service, running)
        except Refusal as refusal:
            refusal.plan = service.name
            raise
        except OwnLimitError as error:
            log.warning("out of %s: a request is refused", error)
            raise out_of(str(error)) from error
        finally:
            self.under_way.discard(running)
            for lease in running.trials:
                service.end_trial(lease, self._loop.time())

    async def _try_again(self, service: Service, running: RunningRequest) -> bool:
        """Make another attempt, within what may be tried again at once."""
        error = running.last_error
        if error is None or error.gone:  # a replica that was not there did no work
            return await self._try_once(service, running)
        if not await self.retries.take():
            raise as_refusal(error)
        running.retrying = True
        try:
            return await self._try_once(service, running)
        finally:
            self._end_retry(running)

    def _end_retry(self, running: RunningRequest) -> None:
        if running.retrying:
            running.retrying = False
            self.retries.give_back()

    async def _try_once(self, service: Service, running: RunningRequest) -> bool:
        """Make one attempt; return False where another is due."""
        lease = await self._lease(service, running)
        if lease.trial:
            running.trials.append(lease)
        try:
            result = await self._attempt(lease, running)
            if isinstance(result, ReplicaAnswer):
                await self._whole(result, lease, running)
            elif isinstance(result, OpenStream):
                await self._stream(result, lease, running)
            return result is not None
        finally:
            self._dispatcher.release(lease)

    async def _lease(self, service: Service, running: RunningRequest) -> Lease:
        """Get a place for the next attempt, or end with what the last one said."""
        try:
            return await self._dispatcher.lease(service, running.size, running.tried)
        except Refusal:
            if running.last_error is None:
                raise
            raise as_refusal(running.last_error) from None

    async def _attempt(
        self, lease: Lease, running: RunningRequest
    ) -> ReplicaAnswer | OpenStream | None:
        """Ask one replica; None where another may be tried. Raises Refusal where none may."""
        backend = lease.backend
        if running.attempts == 0:
            self._metrics.added_s.observe(self._loop.time() - running.arrival_s)
        running.attempts += 1
        try:
            result = await self._send(backend, running)
        except AttemptError as error:
            self._go_on(lease, running, error)
            return None
        self._end_retry(running)
        running.first_byte_s = self._loop.time()
        if isinstance(result, OpenStream) or result.status < 300:
            self._blame(running)
        return result

    async def _send(self, backend: Backend, running: RunningRequest) -> ReplicaAnswer | OpenStream:
        """Send to a replica; where the gateway lacks something itself, once more after a moment."""
        try:
            return await self._upstream.send(backend, running.request, running.headers)
        except OwnLimitError:
            await asyncio.sleep(_MOMENT_S)
            return await self._upstream.send(backend, running.request, running.headers)

    def _go_on(self, lease: Lease, running: RunningRequest, error: AttemptError) -> None:
        """Note a failed attempt. Raises Refusal where it was the last."""
        backend = lease.backend
        self._metrics.failures.add(lease.service.name, backend.option, error.kind)
        log.info("%r: %s", backend, error.kind)
        if error.kind == "disconnected" and not running.reused_once:
            # An idle connection that the replica closed just now looks the same: ask once more.
            running.reused_once = True
            running.attempts -= 1
            return
        running.failed.append((lease, error))
        if error.kind != VACANT:  # that may have a replica again, and had no part in the failure
            if error.gone:
                backend.unreachable()
            backend.suspect = True
            running.tried.append(backend)
        if error.gone:
            lease.service.refresh_health(self._loop.time())
        if not error.retry or self._tried_enough(running, error):
            raise as_refusal(error) from error

    def _tried_enough(self, running: RunningRequest, error: AttemptError) -> bool:
        """Return whether a request has failed often enough: alike, as by its own fault, or at all."""
        alike = sum(seen.kind == error.kind for _, seen in running.failed)
        own_fault = alike >= self._settings.attempts and not error.gone
        return own_fault or running.attempts >= 2 * self._settings.attempts

    def _blame(self, running: RunningRequest) -> None:
        """Hold failures against replicas now that another one has served the same request.

        What no other could serve is nobody's fault but the request's.
        """
        for lease, error in running.failed:
            if error.blame:
                lease.service.failed(lease, self._loop.time())

    def _done(self, running: RunningRequest) -> Finished:
        return Finished(
            request=running.request,
            size=running.size,
            arrival_s=running.arrival_s,
            first_byte_s=running.first_byte_s,
            ended_s=self._loop.time(),
            session_header=running.call.header(self._sessions.header),
        )

    async def _whole(self, answer: ReplicaAnswer, lease: Lease, running: RunningRequest) -> None:
        lease.service.succeeded(lease, self._loop.time())
        if answer.status == 200:
            self._accounts.answered(answer, lease, self._done(running))
        self._metrics.answers.add(lease.service.name, str(answer.status))
        out = {"Content-Type": answer.content_type, "X-Request-Id": running.request_id}
        if answer.encoding is not None:
            out["Content-Encoding"] = answer.encoding
        call = running.call
        if answer.file is None:
            call.answer(answer.status, out, answer.body)
            return
        try:
            call.begin(answer.status, out, answer.size)
            async for piece in answer.pieces():
                call.write(piece)
                await call.drain()
            call.end()
        finally:
            answer.close()

    async def _stream(self, opened: OpenStream, lease: Lease, running: RunningRequest) -> None:
        """Pass a stream on as it comes. Its end is clean only if the replica's was."""
        events = EventStream(running.request.hide_usage, opaque=opened.encoding is not None)
        headers = {
            "Content-Type": opened.content_type,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            "X-Request-Id": running.request_id,
        }
        if opened.encoding is not None:
            headers["Content-Encoding"] = opened.encoding
        try:
            with lease.backend.outcomes.running():
                running.call.begin(200, headers)
                relay = Relay(opened.connection, events, running.call, self._settings.idle_s)
                broken = await relay.run(opened.first)
        finally:
            # One that has not ended is closed, which is what stops the replica's work.
            self._upstream.give_back(lease.backend, opened.connection)
        self._end_stream(broken, events, lease, running)

    def _end_stream(
        self, broken: str | None, events: EventStream, lease: Lease, running: RunningRequest
    ) -> None:
        answers, service, call = self._metrics.answers, lease.service, running.call
        now_s = self._loop.time()
        if broken is None:
            call.write(events.end())
            call.end()
            # Only an end is a success: else a replica that dies in every stream would stay in use.
            if not events.failed:
                service.succeeded(lease, now_s)
            self._accounts.streamed(events, lease, self._done(running))
            answers.add(service.name, "200")
            return
        answers.add(service.name, "broken")
        self._metrics.failures.add(service.name, lease.backend.option, broken)
        service.failed(lease, now_s)
        call.write(_BROKEN_EVENT)
        call.cut()

    def end_stalled(self, now_s: float) -> None:
        """Give up on clients that have stopped reading for too long."""
        for running in tuple(self.under_way):
            since_s = running.blocked_since_s
            if since_s is not None and now_s - since_s > self._settings.stall_s and running.task:
                running.task.cancel()
