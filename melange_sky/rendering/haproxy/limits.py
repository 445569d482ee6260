"""Sizes and counts that follow from a plan: buffers, bodies, how many requests a replica takes at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from melange_sky.routing import FULL_LOAD

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.rendering.haproxy.fleet import ProxyLimits, ServedModel

ATTEMPTS = 4
"""How often a request is tried in all."""
BYTES_PER_TOKEN = 4.0
"""UTF-8 bytes of text per token, where the gateway starts from, too; nothing is learnt here."""
LEAST_BODY_BYTES = 4 * 1024 * 1024
_BODY_BYTES_PER_TOKEN = 16
_LEAST_BUFFER, _MOST_BUFFER = 64 * 1024, 256 * 1024
_TEXT_BYTES_PER_TOKEN = 6
_KEPT_BACK = 16 * 1024
"""What of a buffer headers and HAProxy's own bookkeeping may take."""


def buffer_bytes(models: Sequence[ServedModel]) -> int:
    """Return the size of HAProxy's buffers: a power of two in which usual text of a full context fits.

    HAProxy copies a whole buffer for each request that it may have to repeat: a core that serves 16,000
    requests a second at 64 KiB serves 10,000 at 256 KiB and 3,000 at 1 MiB (2.6.12), so there it ends.
    """
    text = _TEXT_BYTES_PER_TOKEN * _longest(models) + _KEPT_BACK
    return int(min(_MOST_BUFFER, max(_LEAST_BUFFER, 2 ** math.ceil(math.log2(text)))))


def whole_bytes(models: Sequence[ServedModel]) -> int:
    """Return up to which size a body is there as a whole when it is routed."""
    return buffer_bytes(models) - _KEPT_BACK


def body_bytes(models: Sequence[ServedModel], limits: ProxyLimits) -> int:
    """Return the largest body: as set, else what the longest context takes, written as JSON."""
    if limits.body_bytes is not None:
        return limits.body_bytes
    return max(LEAST_BODY_BYTES, _BODY_BYTES_PER_TOKEN * _longest(models))


def most_requests(slots: float, copies: int, proxies: int) -> int:
    """Return how many requests at once a server gets from one of the proxies."""
    return max(1, math.ceil(FULL_LOAD * slots * copies / proxies))


def _longest(models: Sequence[ServedModel]) -> int:
    return max((model.most_tokens for model in models), default=0)
