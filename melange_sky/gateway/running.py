"""A client's request while it is under way, and what the client is told where no replica served it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melange_sky.gateway.client_request import Refusal

if TYPE_CHECKING:
    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.calls import Call
    from melange_sky.gateway.client_request import ClientRequest
    from melange_sky.gateway.service import Lease, RequestSize
    from melange_sky.gateway.upstream import AttemptError


@dataclass(slots=True, eq=False, kw_only=True)
class RunningRequest:
    """A request under way: what the client asked for, and what was tried for it.

    `headers` go to the replica, with the `request_id` that the client sees, too.
    """

    task: asyncio.Task[object] | None
    call: Call
    arrival_s: float
    request: ClientRequest
    size: RequestSize
    request_id: str
    headers: bytes
    first_byte_s: float | None = None
    retrying: bool = False
    attempts: int = 0
    tried: list[Backend] = field(default_factory=list)
    failed: list[tuple[Lease, AttemptError]] = field(default_factory=list)
    trials: list[Lease] = field(default_factory=list)
    reused_once: bool = False

    @property
    def last_error(self) -> AttemptError | None:
        """What the last replica did wrong."""
        return self.failed[-1][1] if self.failed else None

    @property
    def blocked_since_s(self) -> float | None:
        """When the client last stopped reading, None if it reads."""
        return self.call.blocked_since_s


def out_of(what: str) -> Refusal:
    """Return the refusal where the gateway itself lacks something."""
    return Refusal(
        503, f"the gateway has no {what} left; try again", "gateway_limit", retry_after_s=1
    )


def as_refusal(error: AttemptError) -> Refusal:
    """Return what the client gets after the last attempt."""
    if error.kind == "busy":
        answer = error.answer
        status = 503 if answer is None else answer.status
        after_s = None if answer is None else answer.retry_after_s()
        return Refusal(
            status, "the replicas refuse requests now", "busy", retry_after_s=after_s or 1
        )
    if error.gone:
        return Refusal(503, "no replica can be reached now", "no_replica", retry_after_s=2)
    if error.kind == "too_large":
        return Refusal(502, "the replica's answer is too large", "answer_too_large")
    if error.kind in ("timeout", "slow"):
        return Refusal(504, "no replica answered in time", "timeout")
    if error.answer is not None and error.answer.status == 500:
        return Refusal(500, "the replica failed on this request", "replica_error")
    return Refusal(502, "no replica could serve this request", "bad_gateway")
