"""Look at servers' Prometheus pages every few seconds, as a monitoring system does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.learning import COUNTERS, FOUND, GAUGES, Scrape, Sizes
from melange_sky.metrics_page import labelled, labels_of
from melange_sky.profiler.metrics import read_bounded

if TYPE_CHECKING:
    from melange_sky.engines import Engine
    from melange_sky.profiler.endpoint import Endpoint

LOOK_S = 5.0
_MOST_BYTES = 4_000_000
_NEEDED = (*GAUGES, *COUNTERS)
_PARTS = ("bucket", "sum")


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure: its metric's name, its labels and its value."""

    name: str
    labels: Mapping[str, str]
    value: float


def wanted_names(engine: Engine) -> tuple[str, ...]:
    """Return the names of an engine's metrics from which looks are made, histograms' parts among them."""
    shorts = {*_NEEDED, FOUND}
    plain = [name for name, short in engine.metrics.items() if short in shorts]
    return (*plain, *(f"{base}_{end}" for base in engine.histograms for end in _PARTS))


def scrape_of(page: str, engine: Engine, time_s: float, where: str) -> Scrape:
    """Return what a page says. Raises InputError where it is not such an engine's, or of several models."""
    names = {name: name for name in wanted_names(engine)}
    samples = [Sample(name, labels_of(text), v) for name, text, v in labelled(page, names)]
    return look_of(samples, engine, time_s, where)


def look_of(samples: Iterable[Sample], engine: Engine, time_s: float, where: str) -> Scrape:
    """Return the look that a server's samples of one time make. Raises InputError as `scrape_of` does."""
    totals: dict[str, float] = {}
    engines, models = 0, set()
    histograms: list[Sample] = []
    for sample in samples:
        short, value = engine.metrics.get(sample.name), sample.value
        if short is None:
            histograms.append(sample)
            continue
        if not math.isfinite(value) or value < 0:
            raise InputError(f"{where}: {sample.name} is {value:g}, which counts nothing")
        totals[short] = totals.get(short, 0.0) + value
        if short == "running":
            engines += 1
            models.add(sample.labels.get("model_name", ""))
    missing = [_name(engine, short) for short in _NEEDED if short not in totals]
    if missing:
        raise InputError(
            f"{where}: no {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''} on the page; "
            f"{engine.title} counts them under these names: is this its /metrics?"
        )
    if len(models) > 1:
        names = ", ".join(sorted(models)[:3])
        raise InputError(f"{where}: figures of several models on one page ({names[:100]})")
    totals["kv_use"] /= engines
    sizes = {short: _sizes(histograms, base) for base, short in engine.histograms.items()}
    return Scrape(
        time_s=time_s,
        figures=totals,
        engines=engines,
        prompts=sizes.get("prompts"),
        answers=sizes.get("answers"),
    )


def _name(engine: Engine, short: str) -> str:
    return next(name for name, known in engine.metrics.items() if known == short)


def _sizes(samples: Sequence[Sample], base: str) -> Sizes | None:
    """Return a histogram of the samples, None where it is not there; of several engines the sum."""
    counts: dict[float, float] = {}
    tokens = 0.0
    for sample in samples:
        if sample.name == f"{base}_sum":
            tokens += sample.value
        elif sample.name == f"{base}_bucket":
            with contextlib.suppress(ValueError):
                edge = float(sample.labels.get("le", "nan"))
                if not math.isnan(edge):
                    counts[edge] = counts.get(edge, 0.0) + sample.value
    edges = tuple(sorted(counts))
    if not edges or not math.isinf(edges[-1]):
        return None
    return Sizes(edges=edges, counts=tuple(counts[edge] for edge in edges), tokens=tokens)


@dataclass(slots=True, kw_only=True)
class Scraping:
    """Looks at servers, kept one list per server.

    `missed` counts looks without an answer, `unread` those whose page told nothing, after one that did;
    `versions` are what the servers said that they run.
    """

    endpoints: Sequence[Endpoint]
    engine: Engine
    every_s: float
    looks: list[list[Scrape]] = field(init=False)
    versions: list[str | None] = field(init=False)
    missed: int = 0
    unread: int = 0

    def __post_init__(self) -> None:
        """Begin without a look."""
        self.looks = [[] for _ in self.endpoints]
        self.versions = [None for _ in self.endpoints]

    def run(self, seconds: float, on_look: Callable[[float], None] | None = None) -> None:
        """Look until so many seconds are over, or Ctrl-C; what was seen until then stays.

        Raises SourceUnavailableError where no server answers the first look, InputError for a page that
        tells nothing.
        """
        try:
            asyncio.run(self._run(seconds, on_look))
        except KeyboardInterrupt:
            if not any(self.looks):
                raise

    async def _run(self, seconds: float, on_look: Callable[[float], None] | None) -> None:
        started = time.monotonic()
        async with aiohttp.ClientSession() as session:
            for at, endpoint in enumerate(self.endpoints):
                self.versions[at] = await _version(session, endpoint)
            while True:
                begun = time.monotonic()
                await asyncio.gather(
                    *(self._look(session, at) for at in range(len(self.endpoints)))
                )
                if not any(self.looks):
                    shown = ", ".join(endpoint.shown for endpoint in self.endpoints[:3])
                    raise SourceUnavailableError(f"no /metrics at {shown}")
                passed = time.monotonic() - started
                if on_look is not None:
                    on_look(passed)
                if passed + self.every_s > seconds:
                    return
                await asyncio.sleep(max(0.0, self.every_s - (time.monotonic() - begun)))

    async def _look(self, session: aiohttp.ClientSession, at: int) -> None:
        endpoint, looks = self.endpoints[at], self.looks[at]
        page = await _got(session, endpoint, "/metrics", min(LOOK_S, self.every_s))
        if page is None:
            self.missed += 1
            return
        try:
            looks.append(scrape_of(page, self.engine, time.monotonic(), endpoint.shown))
        except InputError:
            if not looks:
                raise
            self.unread += 1


async def _got(
    session: aiohttp.ClientSession, endpoint: Endpoint, path: str, limit_s: float
) -> str | None:
    """Return a page's text, None where it was not to be had in time."""
    timeout = aiohttp.ClientTimeout(total=limit_s)
    with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
        async with session.get(
            f"{endpoint.base}{path}",
            timeout=timeout,
            allow_redirects=False,
            headers=endpoint.headers,
        ) as response:
            if response.status == 200:
                page = await read_bounded(response, _MOST_BYTES)
                return page.decode("utf-8", errors="replace")
    return None


async def _version(session: aiohttp.ClientSession, endpoint: Endpoint) -> str | None:
    page = await _got(session, endpoint, endpoint.pages.version_path, LOOK_S)
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(page or "")["version"])[:40]
    return None
