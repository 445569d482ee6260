"""`melange-sky gateway`: serve one OpenAI-compatible endpoint over a plan's replicas."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from melange_sky.planner.serving import Listening, ServeOptions


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
    help="File of API keys that clients must send, one per line (default: MELANGE_SKY_API_KEY).",
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
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that share the port, for more cores (Linux). They share the replicas as so many "
    "gateways and divide --queue among them.",
)
@click.option(
    "--affinity",
    type=click.Choice(["off", "session", "prefix"]),
    default=None,
    help="Keep requests at the replica that has their history cached: those of a session, or those whose "
    "prompts begin alike (default: as the plan was made).",
)
@click.option(
    "--session-header",
    default="X-Session-Id",
    show_default=True,
    metavar="NAME",
    help="Header that names a request's session; without it fields of the body do (`melange-sky help affinity`).",
)
@click.option(
    "--prefix-blocks",
    type=click.IntRange(1, 4096),
    default=4,
    show_default=True,
    help="Blocks of 256 characters by which --affinity prefix compares prompts.",
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
    default=None,
    help="Largest request body in bytes (default: 4 MiB, more for contexts over 262,144 tokens).",
)
@click.option(
    "--seed",
    type=int,
    default=None,
    help="Seed of the router's first phase, for reproducible comparisons.",
)
@click.option(
    "--export",
    nargs=2,
    type=(click.Choice(["haproxy"]), click.Path(path_type=Path)),
    metavar="haproxy DIR",
    default=None,
    help="Write the routing for HAProxy into DIR instead of serving.",
)
@click.option("--force", is_flag=True, help="Let --export write into a DIR with other files.")
def gateway(plan: Path, export: tuple[str, Path] | None, force: bool, **flags: Any) -> None:
    """Serve one OpenAI-compatible endpoint over the replicas of PLAN (plan.json or its folder).

    Each request goes to the option that the plan chose for its size, corrected by live load.
    SIGHUP, or a change of PLAN or --backends-file, reloads without dropping a request; SIGTERM
    drains. With --workers, /metrics and --observed are of all workers together, and one that dies is
    started again.
    """
    from melange_sky.planner.serving import ServeOptions, serve_plan

    options = ServeOptions(**flags)
    if export is None:
        if force:
            raise click.UsageError("--force goes with --export")
        serve_plan(plan, options, _announce)
    else:
        if options.workers > 1:
            raise click.UsageError(
                "--workers goes without --export: HAProxy has threads of its own"
            )
        _export(plan, options, export[1], force)


def _export(plan: Path, options: ServeOptions, folder: Path, force: bool) -> None:
    from melange_sky.planner.haproxy_export import export_haproxy

    exported = export_haproxy(plan, options, folder, force=force)
    config = shlex.quote(str(exported.config))
    for model, option in exported.unserved:
        click.echo(f"warning: {model}: no backend for option {option}", err=True)
    click.echo(f"Wrote {exported.config} for {', '.join(exported.models)}")
    click.echo(f"  haproxy -c -f {config}        checks it")
    click.echo(f"  haproxy -W -db -f {config}    runs it; kill -USR2 to it takes a new export")


def _announce(listening: Listening) -> None:
    click.echo(f"listening on {listening.url} for {', '.join(listening.models)}", err=True)
    click.echo(listening.open_files, err=True)
    for model, option in listening.unserved:
        click.echo(f"warning: {model}: no backend for option {option}", err=True)
