"""The gateway's life: start, probe, watch for changes, reload, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import signal
import ssl
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, MelangeError
from melange_sky.gateway.backend import Backend
from melange_sky.gateway.client_connection import Clients
from melange_sky.gateway.dispatch import Dispatcher
from melange_sky.gateway.listener import Listener, Sharing
from melange_sky.gateway.metrics import Metrics
from melange_sky.gateway.own_limits import raise_file_limit
from melange_sky.gateway.pool import Fleet
from melange_sky.gateway.proxy import Proxy
from melange_sky.gateway.replica_counts import ReplicaCounts
from melange_sky.gateway.server import Front
from melange_sky.gateway.sessions import Sessions
from melange_sky.gateway.settings import Keys, Secret, Settings, Sources
from melange_sky.gateway.standing import Standing, brings_another_plan, unanswered
from melange_sky.gateway.threads import in_thread
from melange_sky.gateway.upstream import Upstream
from melange_sky.gateway.watched import Stamp, stamps_of

if TYPE_CHECKING:
    from melange_sky.gateway.siblings import Siblings
    from melange_sky.plans import ModelPlan

log = logging.getLogger(__name__)

_COLLECTED_AFTER = 50_000
"""New objects until the next garbage collection of a running gateway."""

_CLOSE_S = 1.0
"""What of the time to drain is kept for closing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where the gateway listens, its TLS settings, who else listens; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8080
    tls: ssl.SSLContext | None = None
    sharing: Sharing = Sharing.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Keys that clients must show, and the key that the gateway shows to replicas."""

    clients: Keys
    replicas: Secret
    replica_ca: Path | None = None


class Gateway:
    """One running gateway. `start`, then `wait` until a signal (or `stop`), then it has drained."""

    def __init__(
        self,
        sources: Sources,
        settings: Settings,
        credentials: Credentials,
        rng: random.Random,
        siblings: Siblings | None = None,
    ) -> None:
        """Prepare; nothing is opened yet. `siblings` are the other workers where there are several."""
        self._siblings = siblings
        self._sources, self._settings, self._credentials = sources, settings, credentials
        self.metrics = Metrics()
        self.fleet = Fleet(rng, settings, sources.tokenizer)
        self.sessions = Sessions(
            settings.session_header,
            settings.prefix_blocks,
            None if siblings is None else siblings.salt,
        )
        self.files = raise_file_limit(settings.connections)
        self._stopping = asyncio.Event()
        self._hurry = False
        self._reload_asked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_urls: object = None
        self.standing = Standing()
        self._replica_counts = ReplicaCounts(self.metrics)
        self._refused: str | None = None
        self._waits = False
        self._stamps: list[Stamp | None] = []

    async def start(self, listen: Listen) -> int:
        """Load plan and backends, probe them, listen. Returns the port.

        Raises InputError for a bad plan or backend, and where the address cannot be had.
        """
        self._stamps = stamps_of(self._sources.watch)
        plan = await in_thread(self._sources.load_plan)
        urls_by_option = await in_thread(self._sources.discover)
        prepared = self.fleet.prepare(plan, urls_by_option)
        self._last_urls = urls_by_option
        settings = self._settings
        self.upstream = Upstream(settings, self._credentials.replicas, self._credentials.replica_ca)
        dispatcher = Dispatcher(settings, self.metrics, self.sessions)
        self.proxy = Proxy(
            settings,
            self.upstream,
            dispatcher,
            self.metrics,
            self._sources.observed,
            self.sessions,
        )
        self.front = Front(
            settings, self._credentials.clients, self.fleet, self.proxy, self.metrics
        )
        self.front.most_requests = self.files.requests
        await self._probe([b for _, backends in prepared.values() for b in backends])
        self.fleet.load(prepared)
        self.standing.took(self._sources.revision(), (), self.fleet.backends)
        self.front.standing = self.standing
        if self._siblings is not None:
            self.front.siblings = self._siblings
            await self._siblings.open(self.front.state)
            self._spawn(self._every(1.0, self._keep_state))
        await self._listen(listen)
        self._spawn(self._every(settings.probe_every_s, self._probe_all))
        self._spawn(self._every(settings.counts_every_s, self._look_at_counts))
        self._spawn(self._every(5.0, self._sweep))
        self._spawn(self._every(settings.watch_every_s, self._look_for_changes))
        self._spawn(self._reloads())
        if self._sources.observed is not None:
            self._spawn(self._every(settings.observe_every_s, self._write_observed))
        return self._listener.port

    async def _listen(self, listen: Listen) -> None:
        self._server = Clients(self.front.handle, self._settings, self.front.body_bytes)
        self._listener = Listener(self._server, self._has_room, listen.tls, listen.sharing)
        try:
            await self._listener.open(listen.host, listen.port)
        except OSError as error:
            await self._close()
            raise InputError(
                f"cannot listen on {listen.host}:{listen.port}: {error.strerror or error}"
            ) from error

    def _has_room(self) -> bool:
        """Return whether one more connection may be accepted; makes room by closing an idle one."""
        taken = self._server.open_connections + self._listener.pending
        return taken < self.files.connections or self._server.close_idle()

    def stop(self) -> None:
        """Ask for the end: no new requests, those in flight run on. Asked twice, they do not."""
        if self._stopping.is_set():
            self._hurry = True
        self._stopping.set()

    def _end_now(self) -> None:
        self._hurry = True
        self._stopping.set()

    def reload(self) -> None:
        """Ask for plan and backends to be read again."""
        self._reload_asked.set()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT drain; SIGHUP reloads."""
        loop = asyncio.get_running_loop()
        if self._siblings is None:
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(name, self.stop)
        else:  # SIGTERM may come to a worker twice, by its group and by its parent
            loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
            loop.add_signal_handler(signal.SIGUSR2, self._end_now)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    async def wait(self) -> None:
        """Serve until `stop`, then drain and close."""
        await self._stopping.wait()
        self.front.draining = True
        log.info("draining: %d requests in flight", self.front.accepted)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._settings.drain_s - _CLOSE_S
        while self.front.accepted and loop.time() < deadline_s and not self._hurry:
            await asyncio.sleep(0.05)
        await self._close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        await self._server.close(_CLOSE_S / 2)
        self.upstream.close()
        if self._siblings is not None:
            await self._siblings.close()
        if self._sources.observed is not None:
            with contextlib.suppress(MelangeError, OSError, asyncio.TimeoutError):
                await asyncio.wait_for(in_thread(self._sources.observed.write), _CLOSE_S / 2)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(coroutine))

    async def _every(
        self, period_s: float, action: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                await action()
            except Exception:
                log.exception("%s failed; the gateway serves on", action.__name__)

    async def _probe_all(self) -> None:
        await self._probe(self.fleet.backends)
        now_s = asyncio.get_running_loop().time()
        for service in self.fleet.services.values():
            service.refresh_health(now_s)

    async def _probe(self, backends: list[Backend]) -> None:
        async def one(backend: Backend) -> None:
            backend.probed(await self.upstream.probe(backend), self._settings)

        await asyncio.gather(*(one(backend) for backend in backends))

    async def _look_at_counts(self) -> None:
        now_s = asyncio.get_running_loop().time()
        await self._replica_counts.look(self.fleet.services.values(), self.upstream, now_s)

    async def _sweep(self) -> None:
        self.proxy.end_stalled(asyncio.get_running_loop().time())

    async def _keep_state(self) -> None:
        assert self._siblings is not None
        self._siblings.state()
        if self._siblings.orphaned and not self._stopping.is_set():
            log.error("the gateway's first process is gone; this worker drains and ends")
            self.stop()

    async def _write_observed(self) -> None:
        assert self._sources.observed is not None
        await in_thread(self._sources.observed.write)

    async def _look_for_changes(self) -> None:
        """Ask for a reload where a watched file or the backends found differ from before."""
        stamps = stamps_of(self._sources.watch)
        before, self._stamps = self._stamps, stamps
        if stamps != before or self._waits:
            self.reload()
            return
        try:
            urls_by_option = await in_thread(self._sources.discover)
        except MelangeError as error:
            log.warning("backends could not be looked up: %s", error)
            return
        if urls_by_option != self._last_urls:
            self.reload()

    async def _reloads(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            try:
                await self._reload()
            except MelangeError as error:
                if str(error) != self._refused:  # what is waited for is asked for again and again
                    self.metrics.reloads.add("refused")
                    log.error("reload refused, the old plan stays: %s", error)
                self._refused = str(error)
            except Exception:
                self.metrics.reloads.add("failed")
                log.exception("reload failed, the old plan stays")
            else:
                self._refused = None
                self.metrics.reloads.add("done")
                log.info("reloaded: %d backends", len(self.fleet.backends))

    async def _reload(self) -> None:
        self._waits = False
        plan = await in_thread(self._sources.load_plan)
        urls_by_option = await in_thread(self._sources.discover)
        self._last_urls = urls_by_option
        known = set(map(id, self.fleet.backends))
        prepared = self.fleet.prepare(plan, urls_by_option)
        # New backends are probed before the old ones go, so that no moment is without any.
        fresh = [b for _, backends in prepared.values() for b in backends if id(b) not in known]
        await self._probe(fresh)
        self._require_answers(prepared)
        before = self.fleet.backends
        self.fleet.load(prepared)
        self.sessions.forget(self.fleet.backends)
        self.standing.took(self._sources.revision(), before, self.fleet.backends)

    def _require_answers(self, prepared: Mapping[str, tuple[ModelPlan, list[Backend]]]) -> None:
        """Refuse another plan while an option of it has no replica that answers; it is asked for again."""
        served = {name: service.plan for name, service in self.fleet.services.items()}
        if not brings_another_plan(served, {name: plan for name, (plan, _) in prepared.items()}):
            return
        now_s = asyncio.get_running_loop().time()
        missing = unanswered(prepared.values(), now_s)
        if missing:
            self._waits = True
            names = ", ".join(f"{option[:80]} of {plan}" for plan, option in missing[:4])
            raise InputError(f"no replica answers yet for {names}")


def _shorten_pauses() -> None:
    """Keep the interpreter from holding all streams up.

    A full garbage collection walks everything that was imported (26 ms seen, 216 ms with SkyPilot), so
    what is here after the start is left out of it. While a thread reads a plan or asks SkyPilot, each
    event of the loop waits for the interpreter's lock: 7 ms seen at Python's own 5 ms interval.

    Requests that fail leave cycles behind: 200,000 objects, which the command line lets a plan make before a
    collection, are 25 MiB of them.
    """
    sys.setswitchinterval(0.0005)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER)


def run_gateway(
    make: Callable[[], Gateway], listen: Listen, announce: Callable[[int, Gateway], None]
) -> None:
    """Run a gateway until SIGTERM or SIGINT. `announce` gets the port once it listens."""

    async def main() -> None:
        gateway = make()
        port = await gateway.start(listen)
        gateway.handle_signals()
        _shorten_pauses()
        announce(port, gateway)
        await gateway.wait()

    try:
        import uvloop  # comes with SkyPilot where there is a build of it
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
