"""What the server says of itself while it is under load: its Prometheus page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import aiohttp

from melange_sky.metrics_page import samples
from melange_sky.profiler.endpoint import Endpoint

_GAUGES = ("running", "waiting", "kv_use")
_PREEMPTIONS = "preemptions"
_EVERY_S = 1.0
_LOOK_S, _LAST_LOOK_S = 5.0, 1.0
_IDLE_LOOK_S = 0.1
_MOST_IDLE_WAIT_S = 5.0
_MAX_PAGE = 4_000_000


@dataclass(slots=True, kw_only=True)
class ServerMetrics:
    """Samples by name, one per look. Several engines' gauges are added up, KV use is their maximum.

    `names`: name on the page → `running`, `waiting`, `kv_use`, `preemptions`, or `prefix_asked` and
    `prefix_found`, tokens of prompts looked for and found in the prefix cache.
    """

    names: Mapping[str, str]
    samples: dict[str, list[float]] = field(default_factory=dict)

    def take(self, page: str) -> None:
        """Read one page."""
        totals: dict[str, float] = {}
        for short, value in samples(page, self.names):
            old = totals.get(short, 0.0)
            totals[short] = max(old, value) if short == "kv_use" else old + value
        for short, value in totals.items():
            self.samples.setdefault(short, []).append(value)

    def summary(self) -> dict[str, float] | None:
        """Return means and maxima of the gauges and how many preemptions came; None without data."""
        found: dict[str, float] = {}
        for name in _GAUGES:
            values = self.samples.get(name)
            if values:
                found[f"{name}_mean"] = round(sum(values) / len(values), 4)
                found[f"{name}_max"] = round(max(values), 4)
        counts = self.samples.get(_PREEMPTIONS)
        if counts:
            found[_PREEMPTIONS] = counts[-1] - counts[0]
        asked, hits = (self._growth(name) for name in ("prefix_asked", "prefix_found"))
        if asked and hits is not None:
            found["prefix_hit_fraction"] = round(hits / asked, 4)
        return found or None

    def _growth(self, name: str) -> float | None:
        values = self.samples.get(name)
        return values[-1] - values[0] if values else None


async def watch_metrics(session: aiohttp.ClientSession, endpoint: Endpoint) -> ServerMetrics:
    """Look at the server's metrics once a second until cancelled; then return what was seen.

    A server without such a page is left alone after the first look.
    """
    metrics = ServerMetrics(names=endpoint.pages.metrics)
    try:
        while await _look(session, endpoint, metrics, _LOOK_S):
            await asyncio.sleep(_EVERY_S)
    except asyncio.CancelledError:
        if (
            metrics.samples
        ):  # what was counted since the last look counts too; gauges are idle by now
            counters = {n: s for n, s in metrics.names.items() if s not in _GAUGES}
            last = ServerMetrics(names=counters, samples=metrics.samples)
            await _look(session, endpoint, last, _LAST_LOOK_S)
    return metrics


async def _look(
    session: aiohttp.ClientSession, endpoint: Endpoint, metrics: ServerMetrics, limit_s: float
) -> bool:
    """Take one look; return whether another may tell something."""
    timeout = aiohttp.ClientTimeout(total=limit_s)
    with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
        async with session.get(
            f"{endpoint.base}/metrics", timeout=timeout, allow_redirects=False
        ) as response:
            if response.status != 200:
                return False
            page = await read_bounded(response, _MAX_PAGE)
            metrics.take(page.decode("utf-8", errors="replace"))
    return True


async def until_idle(session: aiohttp.ClientSession, endpoint: Endpoint, blind_s: float) -> None:
    """Wait until the server says that it runs and queues nothing, for some seconds at most.

    For `blind_s` where it does not say.
    """
    ends_s = time.monotonic() + _MOST_IDLE_WAIT_S
    while time.monotonic() < ends_s:
        metrics = ServerMetrics(names=endpoint.pages.metrics)
        with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
            timeout = aiohttp.ClientTimeout(total=5.0)
            async with session.get(
                f"{endpoint.base}/metrics", timeout=timeout, allow_redirects=False
            ) as response:
                if response.status == 200:
                    page = await read_bounded(response, _MAX_PAGE)
                    metrics.take(page.decode("utf-8", errors="replace"))
        busy = [metrics.samples.get(name) for name in ("running", "waiting")]
        if None in busy:
            return await asyncio.sleep(blind_s)
        if not any(map(sum, filter(None, busy))):
            return None
        await asyncio.sleep(_IDLE_LOOK_S)
    return None


async def read_bounded(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return a body's first `most` bytes, however it is cut into pieces."""
    body = b""
    async for data in response.content.iter_any():
        body += data
        if len(body) >= most:
            break
    return body[:most]
