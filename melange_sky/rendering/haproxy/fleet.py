"""What is exported: models with their tables, options with their replicas, and the limits of the proxy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import ModelPlan
    from melange_sky.routing import RoutingState, RoutingTable
    from melange_sky.routing.homes import Homes


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """Where a replica answers, or an endpoint in front of as many `copies`. `secure`: by TLS."""

    host: str
    port: int
    secure: bool
    copies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model's plan as the gateway would serve it.

    `names` are those that clients use, `replicas` go by option in the plan's order, `slots` says how many
    requests a replica of each holds at its capacity; a request may ask for `most_choices` answers to a
    prompt and for `most_sequences` in all, and the longest prompt has `most_tokens`, 0 if not known. `homes` are
    those of sessions, None where they are not kept together.
    """

    plan: ModelPlan
    names: Sequence[str]
    table: RoutingTable
    state: RoutingState
    slots: Sequence[float]
    replicas: Sequence[Sequence[Replica]]
    most_choices: int
    most_sequences: int
    most_tokens: int
    homes: Homes | None

    @property
    def options(self) -> list[str]:
        """Return the names of the plan's options."""
        return [a.candidate.option.name for a in self.plan.allocations]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """Where the proxy listens, which files hold its keys and certificates, and its limits.

    Times are in seconds, sizes in bytes. `key_variable` holds the key for replicas where no file does.
    `proxies` is how many proxies share the replicas; `body_bytes` None: by the models' contexts.
    `key_needed`: it must not start without a key for clients. `session_header` names a request's session.
    """

    host: str
    port: int
    key_file: Path | None
    replica_key_file: Path | None
    key_variable: str
    key_needed: bool
    certificate: Path | None
    replica_ca: Path | None
    proxies: int
    queue_length: int
    queue_wait_s: float
    drain_s: float
    first_byte_s: float
    answer_s: float
    body_bytes: int | None
    session_header: str | None
