"""`melange-sky gateway`: serve one OpenAI-compatible endpoint over a plan's replicas."""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky import settings
from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.gateway import Credentials, Gateway, Listen, Settings, Sources
    from melange_sky.plans import Plan
    from melange_sky.skyserve import LiveService

CLIENT_KEYS = "MELANGE_SKY_API_KEY"
_MOST_KEY_BYTES = 64 * 1024


@click.command()
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="OPTION=URL",
    help="A replica of an option; URL*N for an endpoint in front of N replicas. Repeatable.",
)
@click.option(
    "--backends-file",
    type=click.Path(path_type=Path),
    help="The same, one OPTION=URL per line; read again when it changes.",
)
@click.option(
    "--sky",
    "from_sky",
    is_flag=True,
    help="Find replicas with `sky serve status` every 10 s and call them directly.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    help=f"File of API keys that clients must send, one per line (default: {CLIENT_KEYS}).",
)
@click.option(
    "--replica-key-file",
    type=click.Path(path_type=Path),
    help="File of the API key for the replicas (default: the variable of the plan's engine).",
)
@click.option("--no-key", is_flag=True, help="Listen beyond loopback without an API key.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="Certificate chain (PEM).")
@click.option("--tls-key", type=click.Path(path_type=Path), help="Its private key (PEM).")
@click.option(
    "--replica-ca", type=click.Path(path_type=Path), help="CA file for https replicas (PEM)."
)
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="tokenizer.json, or its folder, for exact prompt lengths.",
)
@click.option(
    "--observed",
    type=click.Path(path_type=Path),
    help="Write the sizes and rate seen here, in the form a spec takes.",
)
@click.option(
    "--gateways",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="How many gateways share the replicas.",
)
@click.option(
    "--queue",
    "queue_length",
    type=click.IntRange(0, 100_000),
    default=256,
    show_default=True,
    help="Requests that wait while all replicas are full; more get 429.",
)
@click.option(
    "--queue-wait",
    "queue_wait_s",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="Longest time that a request waits, in seconds.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 86400),
    default=120.0,
    show_default=True,
    help="Seconds that requests in flight get after SIGTERM.",
)
@click.option(
    "--first-byte",
    "first_byte_s",
    type=click.FloatRange(0.1, 86400),
    default=60.0,
    show_default=True,
    help="Seconds to wait for a stream's first byte before trying elsewhere.",
)
@click.option(
    "--body-limit",
    "body_bytes",
    type=click.IntRange(1024),
    default=4 * 1024 * 1024,
    show_default=True,
    help="Largest request body in bytes.",
)
@click.option(
    "--seed",
    type=int,
    default=None,
    help="Seed of the router's first phase, for reproducible comparisons.",
)
def gateway(plan: Path, host: str, port: int, seed: int | None, **asked: Any) -> None:
    """Serve one OpenAI-compatible endpoint over the replicas of PLAN (plan.json or its folder).

    Each request goes to the option that the plan chose for its size, corrected by live load.
    SIGHUP, or a change of PLAN or --backends-file, reloads without dropping a request; SIGTERM
    drains.
    """
    from melange_sky.gateway import Gateway, Listen, run_gateway, tls_context

    credentials = _credentials(plan, asked)
    _check_exposure(host, credentials, asked["no_key"])
    sources = _sources(plan, asked)
    settings = _settings(asked)
    certificate = asked["tls_cert"]
    if certificate is None and asked["tls_key"] is not None:
        raise InputError("--tls-key needs --tls-cert")
    try:
        tls = None if certificate is None else tls_context(certificate, asked["tls_key"])
    except (OSError, ValueError) as error:
        raise InputError(f"--tls-cert: cannot be used: {error.strerror or error}") from error  # type: ignore[union-attr]
    listen = Listen(host=host, port=port, tls=tls)
    rng = random.Random(seed)
    run_gateway(
        lambda: Gateway(sources, settings, credentials, rng),
        listen,
        lambda p, g: _announce(listen, p, g),
    )


def _announce(listen: Listen, port: int, running: Gateway) -> None:
    scheme = "http" if listen.tls is None else "https"
    host = f"[{listen.host}]" if ":" in listen.host else listen.host
    models = ", ".join(running.fleet.by_model)
    click.echo(f"listening on {scheme}://{host}:{port} for {models}", err=True)
    for name, service in running.fleet.services.items():
        served = {b.option for b in service.backends}
        for allocation in service.plan.allocations:
            option = allocation.candidate.option.name
            if option not in served:
                click.echo(f"warning: {name}: no backend for option {option}", err=True)


def _settings(asked: dict[str, Any]) -> Settings:
    from melange_sky.gateway import Settings

    names = ("gateways", "queue_length", "queue_wait_s", "drain_s", "first_byte_s", "body_bytes")
    # Asking SkyPilot's API server costs a second of its work each time.
    every_s: dict[str, Any] = {"watch_every_s": 10.0} if asked["from_sky"] else {}
    return Settings(**{name: asked[name] for name in names}, **every_s)


def _credentials(plan: Path, asked: dict[str, Any]) -> Credentials:
    from melange_sky.gateway import Credentials, Keys, Secret

    clients = _read_keys(asked["api_key_file"], CLIENT_KEYS, "--api-key-file")
    replicas = _read_keys(
        asked["replica_key_file"], _replica_key_variable(plan), "--replica-key-file"
    )
    if len(replicas) > 1:
        raise InputError(
            "--replica-key-file: contains several keys; exactly one is sent to replicas"
        )
    ca = asked["replica_ca"]
    if ca is not None and not ca.is_file():
        raise InputError(f"--replica-ca: {ca}: no such file")
    return Credentials(
        clients=Keys(clients), replicas=Secret(replicas[0] if replicas else None), replica_ca=ca
    )


def _replica_key_variable(path: Path) -> str:
    """Return the environment variable that holds the key of the plan's replicas."""
    from melange_sky.engines import engine_named
    from melange_sky.planfile import load_plan

    return engine_named(load_plan(path).models[0].engine.name).key_variable


def _read_keys(path: Path | None, variable: str, flag: str) -> list[str]:
    """Return the keys of a file, or of an environment variable; no message ever shows one."""
    if path is None:
        text = settings.secret(variable) or ""
    else:
        try:
            text = path.read_bytes()[: _MOST_KEY_BYTES + 1].decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{flag}: {path}: cannot be read ({type(error).__name__})") from error
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if path is not None and not keys:
        raise InputError(f"{flag}: {path}: contains no key")
    if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise InputError(f"{flag} or {variable}: a key must be printable ASCII without spaces")
    return keys


def _check_exposure(host: str, credentials: Credentials, no_key: bool) -> None:
    if credentials.clients or no_key or _is_loopback(host):
        return
    raise InputError(
        f"--host {host[:80]} can be reached by others: require an API key ({CLIENT_KEYS} or --api-key-file), or pass --no-key"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _sources(plan: Path, asked: dict[str, Any]) -> Sources:
    from melange_sky.cli.observed import ObservedFile
    from melange_sky.gateway import Sources
    from melange_sky.planfile import load_plan

    given: Sequence[str] = asked["backends"]
    file: Path | None = asked["backends_file"]
    if not given and file is None and not asked["from_sky"]:
        raise InputError("no backend: give --backend OPTION=URL, --backends-file or --sky")
    live = _sky_services() if asked["from_sky"] else tuple
    planned: list[Plan] = []

    def load() -> Plan:
        planned[:] = [load_plan(plan)]
        return planned[0]

    def discover() -> dict[str, list[str]]:
        found = _pairs([*given, *([] if file is None else _lines(file))])
        for option, urls in replica_urls(planned[0], live()).items():
            found.setdefault(option, []).extend(urls)
        return found

    observed = asked["observed"]
    return Sources(
        load_plan=load,
        discover=discover,
        watch=(plan / "plan.json" if plan.is_dir() else plan,),
        tokenizer=asked["tokenizer"],
        observed=None if observed is None else ObservedFile(observed),
    )


def _sky_services() -> Callable[[], Sequence[LiveService]]:
    """Return what asks SkyServe which services run."""
    from melange_sky.skyserve.client import SkyServe

    return SkyServe({}).services


def replica_urls(plan: Plan, services: Sequence[LiveService]) -> dict[str, list[str]]:
    """Return the endpoints of ready replicas by PLAN/OPTION, for the options of the plan."""
    known = {(m.name, a.candidate.option.name) for m in plan.models for a in m.allocations}
    found: dict[str, list[str]] = {}
    for service in services:
        origin = service.origin
        if origin is None or origin not in known:
            continue
        ready = [r.endpoint for r in service.replicas if r.status == "READY" and r.endpoint]
        found.setdefault(f"{origin[0]}/{origin[1]}", []).extend(ready)
    return found


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--backends-file: {file}: cannot be read ({type(error).__name__})"
        ) from error
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _pairs(texts: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in texts:
        option, equals, url = text.partition("=")
        if not equals or not option.strip() or not url.strip():
            raise InputError("--backend: write OPTION=URL, such as a10g=http://10.0.0.1:8000")
        found.setdefault(option.strip(), []).append(url.strip())
    return found
