"""What replicas count of their own prefix caches, read from their pages now and then.

Only of plans that count on prefix caches, and of backends that are a single replica: behind one address for several,
each look would meet another's counts. A page that cannot be had says nothing of a replica's health.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.metrics_page import samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.metrics import Metrics
    from melange_sky.gateway.service import Service
    from melange_sky.gateway.upstream import Upstream

MOST_PAGE_BYTES = 1 << 20
AT_ONCE = 16
"""Replicas that are looked at side by side."""

KINDS = {"prefix_asked": "asked", "prefix_found": "found"}


class ReplicaCounts:
    """Sums per replica since this gateway first looked at it, over restarts of the replica."""

    def __init__(self, metrics: Metrics) -> None:
        """Start with no replica."""
        self._sums = metrics.replica_prefix
        self._last: dict[Backend, dict[str, float]] = {}

    async def look(self, services: Iterable[Service], upstream: Upstream, now_s: float) -> None:
        """Look once at every replica that serves; forget those that are gone."""
        wanted = {
            backend: names
            for service in services
            if (names := _names(service))
            for backend in service.backends
            if backend.replicas == 1
        }
        for gone in self._last.keys() - wanted.keys():
            self._forget(gone)
        room = asyncio.Semaphore(AT_ONCE)

        async def one(backend: Backend, names: Mapping[str, str]) -> None:
            async with room:
                page = await upstream.page(backend, "/metrics", MOST_PAGE_BYTES)
            if page is not None:
                self.take(backend, read_counts(page, names))

        serving = [(b, names) for b, names in wanted.items() if b.healthy(now_s)]
        await asyncio.gather(*(one(*each) for each in serving))

    def take(self, backend: Backend, counts: Mapping[str, float] | None) -> None:
        """Add what has come since the last look; None says nothing.

        Counts that fell are a restarted replica's, which began at zero.
        """
        if counts is None:
            return
        last = self._last.get(backend, counts)
        is_new = any(counts[kind] < last[kind] for kind in counts)
        for kind, count in counts.items():
            self._sums.add(*_labels(backend, kind), amount=count - (0 if is_new else last[kind]))
        self._last[backend] = dict(counts)

    def _forget(self, backend: Backend) -> None:
        del self._last[backend]
        for kind in KINDS.values():
            self._sums.values.pop(_labels(backend, kind), None)


def _labels(backend: Backend, kind: str) -> tuple[str, ...]:
    return backend.plan, backend.option, str(backend.url), kind


def _names(service: Service) -> dict[str, str]:
    """Return the names of the counts on the pages of a service's replicas, none where they are not of interest."""
    plan = service.plan
    engine = engine_named(plan.engine.name)
    if plan.reuse is None or not engine.caches_prefixes(plan.engine.args):
        return {}
    names = {name: KINDS[short] for name, short in engine.metrics.items() if short in KINDS}
    return names if set(names.values()) == set(KINDS.values()) else {}


def read_counts(page: bytes, names: Mapping[str, str]) -> dict[str, float] | None:
    """Return a replica's counts, its engines' together, by `KINDS`; None where any is missing or is no count."""
    counts: dict[str, float] = {}
    for kind, count in samples(page.decode("utf-8", errors="replace"), names):
        if not (math.isfinite(count) and count >= 0):
            return None
        counts[kind] = counts.get(kind, 0.0) + count
    return counts if len(counts) == len(KINDS) else None
