"""Serve one endpoint over a plan's replicas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.planner.serving import ServeOptions, serve_plan
from melange_sky.plans import Plan
from melange_sky.sdk.arguments import path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melange_sky.planner.serving import Listening
    from melange_sky.sdk.arguments import AnyPath, AnyPlan


def serve(
    plan: AnyPlan,
    *,
    backends: Sequence[str] = (),
    backends_file: AnyPath | None = None,
    from_sky: bool = False,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key_file: AnyPath | None = None,
    replica_key_file: AnyPath | None = None,
    no_key: bool = False,
    tls_cert: AnyPath | None = None,
    tls_key: AnyPath | None = None,
    replica_ca: AnyPath | None = None,
    tokenizer: AnyPath | None = None,
    observed: AnyPath | None = None,
    gateways: int = 1,
    workers: int = 1,
    affinity: str | None = None,
    session_header: str = "X-Session-Id",
    prefix_blocks: int = 4,
    queue_length: int = 256,
    queue_wait_s: float = 10.0,
    drain_s: float = 120.0,
    first_byte_s: float = 60.0,
    body_bytes: int | None = None,
    seed: int | None = None,
    on_start: Callable[[Listening], None] | None = None,
) -> None:
    """Serve one OpenAI-compatible endpoint over the replicas of a plan until SIGTERM or SIGINT.

    Runs an event loop and handles signals, so call it in the main thread of a process of its own.

    Args:
        plan: A plan, or the plan.json or folder of one, which is read again when it changes.
        backends: Replicas as "OPTION=URL"; URL*N for an endpoint in front of N replicas.
        backends_file: File of such lines, read again when it changes.
        from_sky: Ask SkyServe every 10 s which replicas are ready.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key_file: File of keys that clients must send; None for MELANGE_SKY_API_KEY.
        replica_key_file: File of the key for replicas; None for the variable of the plan's engine.
        no_key: Listen beyond loopback without a key.
        tls_cert: Certificate chain (PEM).
        tls_key: Its private key (PEM).
        replica_ca: CA file for https replicas (PEM).
        tokenizer: tokenizer.json or its folder, for exact prompt lengths.
        observed: File to write the sizes and rate seen to, in the form a spec takes.
        gateways: How many gateways share the replicas.
        workers: Processes that share the port (Linux); they divide the queue and count as gateways.
        affinity: What keeps requests at one replica: "off", "session" or "prefix"; None as the plan was made.
        session_header: Header that names a request's session.
        prefix_blocks: Blocks of 256 characters by which "prefix" compares prompts.
        queue_length: Requests that wait while all replicas are full; more get 429.
        queue_wait_s: Longest time that a request waits.
        drain_s: Seconds that requests in flight get at the end.
        first_byte_s: Seconds to wait for a stream's first byte before trying elsewhere.
        body_bytes: Largest request body; by default 4 MiB, more for long contexts.
        seed: Seed of the router's first phase.
        on_start: Called with address and models once requests are taken; None logs them.

    Returns:
        Nothing, once it has drained.

    Raises:
        InputError: A plan, backend, key, certificate or address cannot be used.
    """
    options = ServeOptions(
        backends=tuple(backends),
        backends_file=path_of(backends_file),
        from_sky=from_sky,
        host=host,
        port=port,
        api_key_file=path_of(api_key_file),
        replica_key_file=path_of(replica_key_file),
        no_key=no_key,
        tls_cert=path_of(tls_cert),
        tls_key=path_of(tls_key),
        replica_ca=path_of(replica_ca),
        tokenizer=path_of(tokenizer),
        observed=path_of(observed),
        gateways=gateways,
        workers=workers,
        affinity=affinity,
        session_header=session_header,
        prefix_blocks=prefix_blocks,
        queue_length=queue_length,
        queue_wait_s=queue_wait_s,
        drain_s=drain_s,
        first_byte_s=first_byte_s,
        body_bytes=body_bytes,
        seed=seed,
    )
    serve_plan(plan if isinstance(plan, Plan) else Path(plan), options, on_start)
