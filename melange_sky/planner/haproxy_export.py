"""Write a plan's routing for HAProxy: what `gateway --export haproxy` does."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.gateway import Settings
from melange_sky.gateway.pool import Fleet, plan_by_model
from melange_sky.gateway.seating import Seating, seating
from melange_sky.planner.gateway_keys import is_loopback
from melange_sky.planner.serving import ServeOptions, plan_and_backends
from melange_sky.rendering import write_folder
from melange_sky.rendering.haproxy import (
    CONFIG,
    ProxyLimits,
    Replica,
    ServedModel,
    render_haproxy,
)
from melange_sky.routing import slots

if TYPE_CHECKING:
    from melange_sky.gateway.backend import Backend
    from melange_sky.plans import Plan

_NOT_EXPORTED = {
    "tokenizer": "--tokenizer: HAProxy has none; it takes text at 4 bytes a token",
    "observed": "--observed: HAProxy counts no tokens; its log has what is known of requests",
    "seed": "--seed: HAProxy's router starts at a phase of its own",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written: the configuration, its models, and (model, option) without a replica."""

    config: Path
    models: tuple[str, ...]
    unserved: tuple[tuple[str, str], ...]


def export_haproxy(
    plan: Path | Plan, options: ServeOptions, folder: Path, *, force: bool = False
) -> Exported:
    """Write a folder with HAProxy's configuration for a plan and the replicas that are known now.

    A folder that an earlier export wrote is replaced as a whole; one with other files is refused
    unless `force`. Raises InputError for what cannot be exported; nothing is written then.
    """
    wrong = [text for name, text in _NOT_EXPORTED.items() if getattr(options, name) is not None]
    if options.affinity == "prefix":
        wrong.append(
            "--affinity prefix: HAProxy keeps sessions together, not prompts that begin alike"
        )
    if wrong:
        raise InputError(*(f"{text}; leave it out with --export" for text in wrong))
    served, urls = plan_and_backends(plan, options)
    settings = options.limits()
    prepared = Fleet(random.Random(0), settings, None).prepare(served, urls)
    seats = {
        name: seating(each, backends, random.Random(0), settings)
        for name, (each, backends) in prepared.items()
    }
    plan_by_model(seats)
    models = [_model(seats[name], backends) for name, (_, backends) in prepared.items()]
    variable = engine_named(served.models[0].engine.name).key_variable
    write_folder(folder, render_haproxy(models, _limits(options, variable)), force=force)
    unserved = [
        (model.plan.name, option)
        for model in models
        for option, replicas in zip(model.options, model.replicas, strict=True)
        if not replicas
    ]
    return Exported(
        config=folder / CONFIG,
        models=tuple(name for model in models for name in model.names),
        unserved=tuple(unserved),
    )


def _model(seat: Seating, backends: list[Backend]) -> ServedModel:
    return ServedModel(
        plan=seat.plan,
        names=seat.model_names,
        table=seat.router.table,
        state=seat.router.state,
        slots=slots(seat.plan, seat.router.table),
        replicas=[[_replica(b) for b in backends if b.option == name] for name in seat.options],
        most_choices=seat.most_choices,
        most_sequences=seat.most_sequences,
        most_tokens=seat.most_tokens,
        homes=seat.router.homes,
    )


def _replica(backend: Backend) -> Replica:
    url = backend.url
    assert url.host is not None and url.port is not None
    if url.path.rstrip("/"):
        raise InputError(
            f"backend of {backend.option[:80]}: a URL with a path cannot be exported to HAProxy"
        )
    return Replica(
        host=url.host, port=url.port, secure=url.scheme == "https", copies=backend.replicas
    )


def _limits(options: ServeOptions, variable: str) -> ProxyLimits:
    if options.port == 0:
        raise InputError("--port 0: HAProxy needs a port of its own")
    return ProxyLimits(
        host=options.host,
        port=options.port,
        key_file=_absolute(options.api_key_file, "--api-key-file"),
        replica_key_file=_absolute(options.replica_key_file, "--replica-key-file"),
        key_variable=variable,
        key_needed=not (options.no_key or is_loopback(options.host)),
        certificate=_certificate(options),
        replica_ca=_absolute(options.replica_ca, "--replica-ca"),
        proxies=options.gateways,
        queue_length=options.queue_length,
        queue_wait_s=options.queue_wait_s,
        drain_s=options.drain_s,
        first_byte_s=options.first_byte_s,
        answer_s=Settings().answer_s,
        body_bytes=options.body_bytes,
        session_header=options.session_header if options.affinity == "session" else None,
    )


def _certificate(options: ServeOptions) -> Path | None:
    """Return the certificate's file; HAProxy looks for its key in it, or beside it with .key behind."""
    certificate = _absolute(options.tls_cert, "--tls-cert")
    key = _absolute(options.tls_key, "--tls-key")
    beside = None if certificate is None else certificate.with_name(certificate.name + ".key")
    if key is not None and key not in (certificate, beside):
        raise InputError(
            "--tls-key: HAProxy takes a certificate's key from the same file, or from one of its name with "
            ".key behind; put it there"
        )
    return certificate


def _absolute(path: Path | None, flag: str) -> Path | None:
    if path is None:
        return None
    if not path.is_file():
        raise InputError(f"{flag}: {path}: no such file")
    return path.absolute()
