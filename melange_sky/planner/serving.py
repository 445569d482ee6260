"""Serve one OpenAI-compatible endpoint over a plan's replicas: what `gateway` does."""

from __future__ import annotations

import logging
import random
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.gateway import (
    Affinity,
    Crew,
    Gateway,
    Listen,
    ObservedSink,
    Place,
    Settings,
    Sharing,
    Sources,
    run_gateway,
    run_workers,
)
from melange_sky.planner.backends import backend_lines, backend_urls, joined, replica_urls
from melange_sky.planner.figures import within
from melange_sky.planner.gateway_keys import read_certificate, read_credentials, require_key
from melange_sky.planner.observed_file import ObservedFile
from melange_sky.planner.routes import Served, read_served
from melange_sky.plans import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melange_sky.gateway import Credentials
    from melange_sky.skyserve import LiveService

log = logging.getLogger(__name__)

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")

PAST_BALANCER = (
    "--sky: the plan is elastic, and SkyServe scales by the requests that its own load balancers see, which --sky goes "
    "past; give the file that `apply --routes` wrote, or --backends-file of `status --backends`"
)

SKY_EVERY_S = 10.0
"""Asking SkyPilot's API server costs a second of its work each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Where replicas are, who may call, how long requests wait: the flags of `gateway`, by their names.

    Times are in seconds, `body_bytes` is the largest request body, None by the models' context. Raises
    InputError where one makes no sense.
    """

    backends: Sequence[str] = ()
    backends_file: Path | None = None
    from_sky: bool = False
    host: str = "127.0.0.1"
    port: int = 8080
    api_key_file: Path | None = None
    replica_key_file: Path | None = None
    no_key: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    replica_ca: Path | None = None
    tokenizer: Path | None = None
    observed: Path | None = None
    gateways: int = 1
    workers: int = 1
    affinity: str | None = None
    session_header: str = "X-Session-Id"
    prefix_blocks: int = 4
    queue_length: int = 256
    queue_wait_s: float = 10.0
    drain_s: float = 120.0
    first_byte_s: float = 60.0
    body_bytes: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        within("--port", self.port, 0, 65535)
        within("--gateways", self.gateways, 1, 1000)
        within("--workers", self.workers, 1, 64)
        within("--prefix-blocks", self.prefix_blocks, 1, 4096)
        self._require_affinity()
        within("--queue", self.queue_length, 0, 100_000)
        within("--queue-wait", self.queue_wait_s, 0, 3600)
        within("--drain", self.drain_s, 0, 86400)
        within("--first-byte", self.first_byte_s, 0.1, 86400)
        if self.body_bytes is not None:
            within("--body-limit", self.body_bytes, 1024, float("inf"))

    def _require_affinity(self) -> None:
        known = [mode.value for mode in Affinity]
        if self.affinity is not None and self.affinity not in known:
            raise InputError(
                f"--affinity: must be one of {', '.join(known)}, not {self.affinity[:40]!r}"
            )
        if not _HEADER.fullmatch(self.session_header):
            raise InputError(
                f"--session-header: {self.session_header[:40]!r} is no name of an HTTP header"
            )

    @property
    def says_where(self) -> bool:
        """Whether backends are given besides those that a routes file may hold."""
        return bool(self.backends) or self.backends_file is not None or self.from_sky

    def limits(self) -> Settings:
        """The gateway's limits; what is no flag keeps its default."""
        defaults = Settings()
        return Settings(
            gateways=self.gateways,
            affinity=None if self.affinity is None else Affinity(self.affinity),
            session_header=self.session_header,
            prefix_blocks=self.prefix_blocks,
            queue_length=self.queue_length,
            queue_wait_s=self.queue_wait_s,
            drain_s=self.drain_s,
            first_byte_s=self.first_byte_s,
            body_bytes=self.body_bytes,
            watch_every_s=SKY_EVERY_S if self.from_sky else defaults.watch_every_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A gateway that takes requests: its address, its models, and (model, option) without a backend.

    `open_files` says in words how many files it may have open, and for how many requests that is enough.
    """

    url: str
    models: tuple[str, ...]
    unserved: tuple[tuple[str, str], ...]
    open_files: str


def serve_plan(
    plan: Path | Plan,
    options: ServeOptions,
    on_start: Callable[[Listening], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; `on_start` is called once requests are taken.

    A plan or routes file is read again when it changes. Raises InputError for a plan, backend, key,
    certificate or address that cannot be used.
    """
    served = _read(plan)
    _require_backends(served, options)
    replica_variable = engine_named(served.plan.models[0].engine.name).key_variable
    credentials = read_credentials(
        options.api_key_file, options.replica_key_file, options.replica_ca, replica_variable
    )
    require_key(options.host, credentials, no_key=options.no_key)
    tls = read_certificate(options.tls_cert, options.tls_key)
    listen = Listen(host=options.host, port=options.port, tls=tls)

    def announce(listening: Listening) -> None:
        log.info("listening on %s for %s", listening.url, ", ".join(listening.models))
        if on_start is not None:
            on_start(listening)

    if options.workers > 1:
        _serve_by_workers(plan, options, listen, credentials, announce)
        return
    sources = _sources(plan, options, _observed_file(options))
    limits, rng = options.limits(), random.Random(options.seed)
    run_gateway(
        lambda: Gateway(sources, limits, credentials, rng),
        listen,
        lambda port, running: announce(_listening(listen, port, running)),
    )


def _serve_by_workers(
    plan: Path | Plan,
    options: ServeOptions,
    listen: Listen,
    credentials: Credentials,
    announce: Callable[[Listening], None],
) -> None:
    """Serve by several processes; what differs between them is made within each."""
    observed = _observed_file(options)
    limits = options.limits().for_one_of(options.workers)

    def serve(place: Place) -> None:
        number = place.siblings.number
        seed = None if options.seed is None else f"{options.seed}/{number}"
        sources = _sources(plan, options, None if observed is None else place.outbox)
        sharing = Sharing.FIRST if place.first else Sharing.LATER
        here = replace(listen, port=place.port, sharing=sharing)
        run_gateway(
            lambda: Gateway(sources, limits, credentials, random.Random(seed), place.siblings),
            here,
            lambda port, running: place.started(port, _listening(here, port, running)),
        )

    crew = Crew(
        workers=options.workers,
        port=options.port,
        drain_s=limits.drain_s,
        observe_every_s=limits.observe_every_s,
        observed=observed,
        serve=serve,
    )
    run_workers(crew, announce)


def _observed_file(options: ServeOptions) -> ObservedFile | None:
    return None if options.observed is None else ObservedFile(options.observed)


def plan_and_backends(
    plan: Path | Plan, options: ServeOptions
) -> tuple[Plan, Mapping[str, Sequence[str]]]:
    """Return the plan and the URLs of its replicas as they are now, by PLAN/OPTION or OPTION."""
    _require_backends(_read(plan), options)
    sources = _sources(plan, options, None)
    return sources.load_plan(), sources.discover()


def _require_backends(served: Served, options: ServeOptions) -> None:
    _require_balancers(served, options)
    if served.backends is None and not options.says_where:
        raise InputError(
            "no backend: give --backend OPTION=URL, --backends-file or --sky, or the file that "
            "`apply --routes` wrote in place of a plan"
        )


def _require_balancers(served: Served, options: ServeOptions) -> None:
    if options.from_sky and served.plan.elastic is not None:
        raise InputError(PAST_BALANCER)


def _read(plan: Path | Plan) -> Served:
    if isinstance(plan, Plan):
        return Served(plan=plan, backends=None, revision=None)
    return read_served(plan)


def _listening(listen: Listen, port: int, running: Gateway) -> Listening:
    scheme = "http" if listen.tls is None else "https"
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    unserved = []
    for name, service in running.fleet.services.items():
        served = {backend.option for backend in service.backends}
        options = [a.candidate.option.name for a in service.plan.allocations]
        unserved += [(name, option) for option in options if option not in served]
    return Listening(
        url=f"{scheme}://{host}:{port}",
        models=tuple(running.fleet.by_model),
        unserved=tuple(unserved),
        open_files=str(running.files),
    )


def _sources(plan: Path | Plan, options: ServeOptions, observed: ObservedSink | None) -> Sources:
    live = _sky_services() if options.from_sky else tuple
    file = options.backends_file
    read: list[Served] = []

    def load() -> Plan:
        served = _read(plan)
        _require_balancers(served, options)
        read[:] = [served]
        return read[0].plan

    def discover() -> dict[str, list[str]]:
        lines = [] if file is None else backend_lines(file)
        given = joined(backend_urls([*options.backends, *lines]), read[0].backends or {})
        return joined(given, replica_urls(read[0].plan, live()))

    return Sources(
        load_plan=load,
        discover=discover,
        revision=lambda: read[0].revision,
        watch=() if isinstance(plan, Plan) else (plan / "plan.json" if plan.is_dir() else plan,),
        tokenizer=options.tokenizer,
        observed=observed,
    )


def _sky_services() -> Callable[[], Sequence[LiveService]]:
    """Return what asks SkyServe which services run."""
    from melange_sky.skyserve.client import SkyServe

    return SkyServe({}).services
