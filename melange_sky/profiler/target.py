"""A running endpoint as a target of the rate search."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np

from melange_sky.capacity_search import ProbeAborted
from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.profiler.endpoint import Endpoint, http_problem, shorten
from melange_sky.profiler.load import TIMED_OUT, LoadOutcome, LoadToSend, run_load
from melange_sky.profiler.metrics import read_bounded
from melange_sky.profiler.prompts import (
    PromptStyle,
    poisson_offsets,
    request_bodies,
    trace_offsets,
)
from melange_sky.slo import RequestLog

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says of itself before any load: its version, None where it does not say."""

    version: str | None = None
    context_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SentProbe:
    """One load as it was sent, with its outcome."""

    rate_rps: float
    seed: int
    outcome: LoadOutcome


@dataclass(slots=True, kw_only=True)
class EndpointTarget:
    """One request size on one endpoint. Keeps every probe that it sent, void ones included.

    Arrivals are Poisson, or have the gaps of a recorded stream, `arrivals_s`, scaled to the rate.
    A probe is void where the client itself was late: the 95th percentile of its lateness in sending
    or of its clock's lag exceeds `late_s`. `deadline_s` (on time.monotonic) ends the measuring with
    OutOfTime, None never. `stop` looks at what is answered so far and may end a probe. `on_probe`
    hears of each probe.
    """

    endpoint: Endpoint
    input_tokens: int
    output_tokens: int
    style: PromptStyle = field(default_factory=PromptStyle)
    arrivals_s: tuple[float, ...] = ()
    late_s: float = 0.025
    deadline_s: float | None = None
    stop: Callable[[RequestLog], bool] | None = None
    on_probe: Callable[[SentProbe], None] | None = None
    sent: list[SentProbe] = field(default_factory=list)

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        """Send an open-loop Poisson stream. See `capacity_search.Target`."""
        if self.deadline_s is not None and time.monotonic() > self.deadline_s:
            raise OutOfTime("the time budget is spent")
        sizes = (self.input_tokens, self.output_tokens)
        load = LoadToSend(
            bodies=request_bodies(self.endpoint.model, sizes, requests, self.style, seed),
            due_s=self._due(rate_rps, requests, seed),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
        )
        outcome = asyncio.run(run_load(self.endpoint, load, self.stop))
        sent = SentProbe(rate_rps=rate_rps, seed=seed, outcome=outcome)
        self.sent.append(sent)
        if self.on_probe is not None:
            self.on_probe(sent)
        raise_faults(self.endpoint, outcome, rate_rps)
        self._check_sizes(outcome.log)
        late = self._late(outcome)
        if late > self.late_s:
            raise ProbeAborted(
                f"the load client was itself late by {late * 1e3:.0f} ms (allowed {self.late_s * 1e3:.0f} ms)"
            )
        return outcome.log

    def _due(self, rate_rps: float, requests: int, seed: int) -> NDArray[np.float64]:
        if self.arrivals_s:
            return trace_offsets(self.arrivals_s, rate_rps, requests, seed)
        return poisson_offsets(rate_rps, requests, seed)

    @property
    def was_late(self) -> bool:
        """Whether the client was late in the last probe."""
        return bool(self.sent) and self._late(self.sent[-1].outcome) > self.late_s

    @staticmethod
    def _late(outcome: LoadOutcome) -> float:
        return max(_p95(outcome.lateness_s), _p95(outcome.lag_s))

    def _check_sizes(self, log: RequestLog) -> None:
        counted = log.input_tokens[log.ok]
        if not self.style.words and counted.size and (counted != self.input_tokens).any():
            raise InputError(
                f"{self.endpoint.shown} counts {int(counted.max())} prompt tokens where "
                f"{self.input_tokens} token ids were sent; it does not take token ids as they are: "
                "use --prompts words"
            )


class OutOfTime(Exception):  # noqa: N818 - the budget's end, not an error of the user
    """The time budget is spent; what is measured so far stays."""


def _p95(values: Any) -> float:
    return float(np.percentile(values, 95)) if len(values) else 0.0


def raise_faults(endpoint: Endpoint, outcome: LoadOutcome, rate_rps: float) -> None:
    """Raise SourceUnavailableError where the endpoint failed rather than was slow.

    Timeouts are an overload's sign and count as misses, unless nothing at all was answered.
    """
    count, errors = len(outcome.log), outcome.errors
    faults = Counter({text: n for text, n in errors.items() if text != TIMED_OUT})
    if sum(faults.values()) * 2 > count:
        shown = Counter({t: n for t, n in faults.items() if not t.startswith("not sent")}) or faults
        text, _ = shown.most_common(1)[0]
        raise SourceUnavailableError(
            f"{endpoint.shown} failed under load: {sum(faults.values())} of {count} requests at "
            f"{rate_rps:.4g} req/s: {text}"
        )
    if errors[TIMED_OUT] == count:
        raise SourceUnavailableError(
            f"{endpoint.shown} answered none of {count} requests within {endpoint.timeout_s:g} s; "
            "is it hung? (--timeout sets the wait)"
        )


def check_endpoint(endpoint: Endpoint, style: PromptStyle) -> ServerFacts:
    """Ask the server for its models and one short answer; raise one clear line where it refuses.

    InputError: wrong address, model, key. SourceUnavailableError: cannot be reached or fails.
    """
    return asyncio.run(_check(endpoint, style))


async def _check(endpoint: Endpoint, style: PromptStyle) -> ServerFacts:
    timeout = aiohttp.ClientTimeout(total=min(30.0, endpoint.timeout_s))
    async with aiohttp.ClientSession(timeout=timeout, headers=endpoint.headers) as session:
        models = await _get_json(session, endpoint, "/v1/models")
        facts = _facts(endpoint, models)
        version = await _version(session, endpoint)
    load = LoadToSend(
        bodies=request_bodies(endpoint.model, (16, 2), 1, style, seed=0),
        due_s=np.zeros(1),
        input_tokens=16,
        output_tokens=2,
    )
    outcome = await run_load(endpoint, load)
    if outcome.errors:
        text = next(iter(outcome.errors))
        kind: type[MelangeError] = InputError if "HTTP 4" in text else SourceUnavailableError
        raise kind(
            f"{endpoint.shown} did not answer a short completion: {text if text != TIMED_OUT else 'nothing came'}"
            + (f" within {endpoint.timeout_s:g} s" if text == TIMED_OUT else "")
        )
    return ServerFacts(version=version, context_tokens=facts.context_tokens)


async def _get_json(session: aiohttp.ClientSession, endpoint: Endpoint, path: str) -> Any:
    try:
        async with session.get(endpoint.base + path, allow_redirects=False) as response:
            body = await read_bounded(response, 4_000_000)
            status = response.status
    except asyncio.TimeoutError:
        raise SourceUnavailableError(f"{endpoint.shown}{path} did not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise SourceUnavailableError(
            f"{endpoint.shown} cannot be reached: {shorten(str(error).encode())}"
        ) from error
    if status in (401, 403):
        raise InputError(
            f"{endpoint.shown} wants a valid key ({http_problem(status, body)}); "
            "put it in the environment variable named by --api-key-env"
        )
    if status == 404:
        return None  # no list of models: the short completion will tell
    if status != 200:
        raise SourceUnavailableError(f"{endpoint.shown}{path}: {http_problem(status, body)}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise SourceUnavailableError(
            f"{endpoint.shown}{path} is not JSON; is this an OpenAI-compatible server?"
        ) from None


def _facts(endpoint: Endpoint, models: Any) -> ServerFacts:
    rows = models.get("data") if isinstance(models, dict) else None
    listed = {
        str(row["id"]): row
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and "id" in row
    }
    if listed and endpoint.model not in listed:
        names = ", ".join(name[:80] for name in list(listed)[:5])
        raise InputError(
            f"{endpoint.shown} does not serve '{endpoint.model[:80]}'; it serves: {names}"
        )
    longest = listed.get(endpoint.model, {}).get("max_model_len")
    return ServerFacts(context_tokens=longest if isinstance(longest, int) else None)


async def _version(session: aiohttp.ClientSession, endpoint: Endpoint) -> str | None:
    """Return the server's version; not every server has such a page."""
    try:
        async with session.get(
            endpoint.base + endpoint.pages.version_path, allow_redirects=False
        ) as response:
            if response.status != 200:
                return None
            said = json.loads(await read_bounded(response, 1_000_000))
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError, RecursionError):
        return None
    version = said.get("version") if isinstance(said, dict) else None
    return version[:60] if isinstance(version, str) else None
