"""What a Prometheus kept of servers: its raw samples, put together as the looks that it took.

Samples are asked for by a range selector at one time, which gives them at their own times; a range query
would fill a missing look up with the one before for minutes (Prometheus, "Querying basics", staleness).
API: https://prometheus.io/docs/prometheus/latest/querying/api/.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.profiler.endpoint import Endpoint, http_problem, shorten
from melange_sky.profiler.metrics import read_bounded
from melange_sky.profiler.scraping import Sample, look_of, wanted_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melange_sky.engines import Engine
    from melange_sky.learning import Scrape

ANSWER_S = 60.0
"""Seconds that one question may take."""

CHUNK_S = 1800.0
MOST_BYTES = 16_000_000
"""Seconds of samples that one question asks for, and how long its answer may be: about a hundred servers."""

_LEAST_S = 60.0
_WITHIN = frozenset({"__name__", "le", "engine", "model_name"})
"""Labels that differ within one server's page; all others together tell servers apart."""

_MATCHER = re.compile(r'\s*[A-Za-z_]\w*\s*(?:=~|!~|!=|=)\s*"(?:[^"\\\n]|\\.)*"\s*')

Target = tuple[tuple[str, str], ...]


class _TooLongError(Exception):
    """An answer of more bytes than are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus:
    """A server with Prometheus's HTTP API. `authorization` is the header's value, never shown.

    `token_env` names the variable that it came from, for messages.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)
    token_env: str = ""

    @classmethod
    def at(cls, url: str, token: str | None, token_env: str) -> Prometheus:
        """Return the server of an address; a token of one word is a bearer token.

        Raises InputError for what is no address, and for one with a user or a password in it.
        """
        base = re.sub(r"(/api/v1)?/*$", "", url.strip())
        try:
            Endpoint(url=base, model="")
        except InputError:
            raise InputError(
                f"--prometheus '{url[:100]}' is not an http:// or https:// address; "
                "give the server's base, such as http://127.0.0.1:9090"
            ) from None
        if "@" in base.split("://", 1)[1].split("/", 1)[0]:
            raise InputError(
                f"--prometheus: the address holds a user or a password; put 'Basic …' into {token_env} instead"
            )
        if token is not None and not (token.isprintable() and token.isascii()):
            raise InputError(f"{token_env}: is not one line of plain characters")
        if token is not None and " " not in token:
            token = f"Bearer {token}"
        return cls(url=base, authorization=token, token_env=token_env)

    @property
    def shown(self) -> str:
        """The address for people, without a query."""
        return Endpoint(url=self.url, model="").shown

    def looks(self, engine: Engine, asked: Asked) -> Kept:
        """Return the looks that were taken within the last `window_s` seconds of the server's own time.

        Raises InputError for a selection that it does not understand or that is of several models, and
        where it holds none of the engine's figures; SourceUnavailableError where it does not answer.
        """
        return asyncio.run(self._looks(engine, asked))

    def latest(
        self, names: Sequence[str], within: frozenset[str], back_s: float, select: str | None = None
    ) -> Latest:
        """Return the last figures of some names, by server, no older than `back_s` seconds.

        Of a server that was scraped several times, those of the last alone. `within` are labels that differ
        within one server's page. Raises InputError for a selection that it does not understand,
        SourceUnavailableError where it does not answer.
        """
        return asyncio.run(self._latest(names, _Gathered(within | {"__name__"}), back_s, select))

    async def _latest(
        self, names: Sequence[str], gathered: _Gathered, back_s: float, select: str | None
    ) -> Latest:
        chosen = "" if select is None else f", {_checked(select)}"
        async with self._session() as session:
            questions = _Questions(server=self, session=session)
            now_s = await questions.now_s()
            selector = f'{{__name__=~"{"|".join(names)}"{chosen}}}'
            gathered.add(await questions.samples(selector, now_s - back_s, now_s), now_s - back_s)
        found = {target: max(kept.items()) for target, kept in gathered.samples.items() if kept}
        return Latest(
            now_s=now_s,
            times={target: at_s for target, (at_s, _) in found.items()},
            samples={
                target: [(s.name, s.labels, s.value) for s in samples]
                for target, (_, samples) in found.items()
            },
        )

    def _session(self) -> aiohttp.ClientSession:
        headers = {} if self.authorization is None else {"Authorization": self.authorization}
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        return aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def _looks(self, engine: Engine, asked: Asked) -> Kept:
        async with self._session() as session:
            questions = _Questions(server=self, session=session)
            now_s = await questions.now_s()
            matchers = await self._matchers(questions, engine, asked, now_s)
            names = "|".join(wanted_names(engine))
            selector = f'{{__name__=~"{names}"{matchers}}}'
            gathered = _Gathered(_WITHIN)
            at_s = now_s - asked.window_s
            while at_s < now_s:
                until_s = min(now_s, at_s + CHUNK_S)
                gathered.add(await questions.samples(selector, at_s, until_s), at_s)
                at_s = until_s
        return gathered.kept(engine, self.shown, questions.warned)

    async def _matchers(
        self, questions: _Questions, engine: Engine, asked: Asked, now_s: float
    ) -> str:
        """Return the selection as further matchers, narrowed to one model."""
        chosen = "" if asked.select is None else f", {_checked(asked.select)}"
        running = next(name for name, short in engine.metrics.items() if short == "running")
        query = (
            f"count by (model_name) (last_over_time({running}"
            f"{{{chosen.removeprefix(', ')}}}[{math.ceil(asked.window_s)}s]))"
        )
        found = await questions.series(query, now_s)
        models = sorted(str(row["metric"].get("model_name", "")) for row in found)
        if not models:
            where = f" where {asked.select.strip('{} ')[:80]}" if asked.select else ""
            raise InputError(
                f"{self.shown}: knows no {running}{where} within the window; {engine.title} counts under "
                "this name: does it scrape the replicas, and is the selection right?"
            )
        if len(models) == 1:
            return chosen
        if asked.model not in models:
            names = ", ".join(models[:4])[:160]
            raise InputError(
                f"{self.shown}: has figures of several models ({names}); choose one: "
                f"--select 'model_name=\"{models[0][:60]}\"'"
            )
        return f"{chosen}, model_name={json.dumps(asked.model)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How far back, which model of several, and matchers of PromQL that leave servers of one kind."""

    window_s: float
    model: str
    select: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The last figures of each server: when they were scraped, by the clock that `now_s` is of, and (name, labels, value)."""

    now_s: float
    times: Mapping[Target, float]
    samples: Mapping[Target, list[tuple[str, Mapping[str, str], float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Looks, one list per server in the order of time; `unread` samples of a time told nothing.

    `warned` answers came with a warning, as of a part that was missing.
    """

    looks: tuple[list[Scrape], ...]
    unread: int
    warned: int


def _checked(select: str) -> str:
    """Return matchers as they stand in braces. Raises InputError for what is none."""
    inner = select.strip().removeprefix("{").removesuffix("}").strip().rstrip(",")
    at = 0
    while match := _MATCHER.match(inner, at):
        at = match.end()
        if at == len(inner):
            return inner
        if inner[at] != ",":
            break
        at += 1
    raise InputError(
        f'--select {select[:80]!r} is no selection; write label="value", such as \'job="chat-l40s"\''
    )


@dataclass(slots=True, kw_only=True)
class _Questions:
    """Questions to one server; `warned` counts answers with a warning."""

    server: Prometheus
    session: aiohttp.ClientSession
    warned: int = 0

    async def now_s(self) -> float:
        """Return the server's own time: this machine's clock may be off."""
        found = await self.ask("time()", None)
        try:
            return float(found[1])
        except (TypeError, ValueError, IndexError, KeyError):
            raise self._foreign() from None

    async def samples(self, selector: str, from_s: float, until_s: float) -> list[Any]:
        """Return series with their samples; one answer that is too long is asked for in two halves."""
        span_s = until_s - from_s
        try:
            return await self.series(f"{selector}[{math.ceil(span_s)}s]", until_s)
        except _TooLongError:
            if span_s <= _LEAST_S:
                raise InputError(
                    f"{self.server.shown}: a minute of samples is longer than {MOST_BYTES / 1e6:g} MB; "
                    "choose fewer servers with --select"
                ) from None
            middle_s = from_s + span_s / 2
            first = await self.samples(selector, from_s, middle_s)
            return first + await self.samples(selector, middle_s, until_s)

    async def series(self, query: str, at_s: float) -> list[Any]:
        """Return the series that a query gives, each with a mapping of labels under `metric`."""
        found = await self.ask(query, at_s)
        if not all(isinstance(row, dict) and isinstance(row.get("metric"), dict) for row in found):
            raise self._foreign()
        return found

    async def ask(self, query: str, at_s: float | None) -> list[Any]:
        """Return the result of a query at a time, None now."""
        params = {"query": query} | ({} if at_s is None else {"time": f"{at_s:.3f}"})
        url = f"{self.server.url}/api/v1/query"
        try:
            async with self.session.get(url, params=params, allow_redirects=False) as response:
                body = await read_bounded(response, MOST_BYTES)
                status = response.status
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            reason = (
                f"no answer in {ANSWER_S:g} s" if not str(error) else shorten(str(error).encode())
            )
            raise SourceUnavailableError(f"{self.server.shown}: {reason}") from None
        if status in (401, 403):
            raise SourceUnavailableError(
                f"{self.server.shown}: HTTP {status}, it wants a token that it knows; "
                f"put one into {self.server.token_env}"
            )
        if status in (400, 422):
            raise InputError(f"{self.server.shown}: {http_problem(status, body)}")
        if status != 200:
            raise SourceUnavailableError(f"{self.server.shown}: {http_problem(status, body)}")
        if len(body) >= MOST_BYTES:
            raise _TooLongError
        return self._result(body)

    def _result(self, body: bytes) -> list[Any]:
        try:
            said = json.loads(body)
            result, good = said["data"]["result"], said["status"] == "success"
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._foreign() from None
        if not (good and isinstance(result, list)):
            raise self._foreign()
        self.warned += bool(said.get("warnings"))
        return result

    def _foreign(self) -> SourceUnavailableError:
        return SourceUnavailableError(
            f"{self.server.shown}: does not answer as Prometheus's HTTP API does; is this its address?"
        )


@dataclass(slots=True)
class _Gathered:
    """Samples by server and time; labels `within` one server's page do not tell servers apart."""

    within: frozenset[str]

    samples: dict[Target, dict[float, list[Sample]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, series: Iterable[Mapping[str, Any]], after_s: float) -> None:
        """Take in what came after a time; what ends a question begins the next one as well."""
        for row in series:
            labels = {str(name): str(value) for name, value in row["metric"].items()}
            target = tuple(sorted((k, v) for k, v in labels.items() if k not in self.within))
            name, kept = str(labels.get("__name__", "")), self.samples[target]
            for time_s, value in _pairs(row.get("values")):
                if time_s > after_s:
                    kept[time_s].append(Sample(name, labels, value))

    def kept(self, engine: Engine, where: str, warned: int) -> Kept:
        """Return the looks. Raises InputError, with the first reason, where no samples make one."""
        looks, unread, first = [], 0, None
        for target in sorted(self.samples):
            found = []
            for time_s, samples in sorted(self.samples[target].items()):
                try:
                    found.append(look_of(samples, engine, time_s, where))
                except InputError as error:
                    first = first or error
                    unread += 1
            if found:
                looks.append(found)
        if not looks:
            raise first or InputError(f"{where}: no samples within the window")
        return Kept(looks=tuple(looks), unread=unread, warned=warned)


def _pairs(values: object) -> Iterable[tuple[float, float]]:
    """Yield times and values of a series; what is no number is left out."""
    for pair in values if isinstance(values, list) else ():
        try:
            yield float(pair[0]), float(pair[1])
        except (TypeError, ValueError, IndexError, KeyError):
            continue
