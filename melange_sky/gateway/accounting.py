"""What a finished request is counted as, and what is learnt from it. Never at a request's expense."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from melange_sky.gateway.affinity import Affinity
from melange_sky.gateway.blocks import seen_prompt
from melange_sky.gateway.documents import parsed
from melange_sky.routing import policy
from melange_sky.streams import response_id_of, usage_of

if TYPE_CHECKING:
    from melange_sky.gateway.answers import ReplicaAnswer
    from melange_sky.gateway.client_request import ClientRequest
    from melange_sky.gateway.metrics import Metrics
    from melange_sky.gateway.service import Lease, RequestSize
    from melange_sky.gateway.sessions import Sessions
    from melange_sky.gateway.settings import ObservedSink
    from melange_sky.gateway.stream import EventStream
    from melange_sky.streams import Usage

log = logging.getLogger(__name__)

_LAST_USAGE = re.compile(
    rb'"usage"\s*:\s*(\{[^{}]{0,4000}(?:\{[^{}]{0,4000}\}[^{}]{0,4000}){0,8}\})'
)


class Finished(NamedTuple):
    """A request that a replica served to its end. Times in seconds of the loop's clock."""

    request: ClientRequest
    size: RequestSize
    arrival_s: float
    first_byte_s: float | None
    ended_s: float
    session_header: str | None = None


class Accounts:
    """Counts finished requests in metrics, router, token counter and observed histogram."""

    def __init__(self, metrics: Metrics, observed: ObservedSink | None, sessions: Sessions) -> None:
        """Keep where to count."""
        self._metrics, self._observed, self._sessions = metrics, observed, sessions

    def answered(self, answer: ReplicaAnswer, lease: Lease, done: Finished) -> None:
        """Count a whole answer."""
        try:
            document = _document(answer)
            self._count(usage_of(document), lease, done)
            self._remember(response_id_of(document), lease, done)
        except Exception:
            log.exception("an answer could not be counted; it goes through")

    def streamed(self, events: EventStream, lease: Lease, done: Finished) -> None:
        """Count a stream that ended well."""
        try:
            usage = events.usage
            if usage.completion_tokens is None and not events.failed:
                usage.completion_tokens = events.outputs  # the replica told none: an event each
            self._count(usage, lease, done)
            self._judge(usage, lease, done)
            self._remember(events.response_id, lease, done)
        except Exception:
            log.exception("a stream could not be counted; it went through")

    def _remember(self, response_id: str | None, lease: Lease, done: Finished) -> None:
        if response_id is not None and done.size.session is not None:
            self._sessions.answered(done.size.session, lease.backend, response_id)

    def _count(self, usage: Usage, lease: Lease, done: Finished) -> None:
        service, option, size = lease.service, lease.backend.option, done.size
        self._times(lease, done)
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return
        prompts, sequences = max(size.prompts, 1), max(size.sequences, 1)
        prompt = round(usage.prompt_tokens / prompts)
        output = round(usage.completion_tokens / sequences)
        service.counter.learn(size.estimated_from_bytes, usage.prompt_tokens)
        if lease.router is service.router:
            for _ in range(sequences):
                service.router.observe(lease.request_class, output)
        metrics, table = self._metrics, service.router.table
        metrics.tokens.add(service.name, option, "prompt", amount=usage.prompt_tokens)
        metrics.tokens.add(service.name, option, "output", amount=usage.completion_tokens)
        if usage.cached_tokens is not None:
            metrics.tokens.add(service.name, option, "cached", amount=usage.cached_tokens)
        metrics.requests.add(
            service.name,
            option,
            service.seating.input_buckets[policy.bucket(table.input_edges, prompt)],
            service.seating.output_buckets[policy.bucket(table.output_edges, output)],
            amount=sequences,
        )
        if self._observed is not None:
            # After the answer is on its way: what prompts share takes a while to count.
            sizes = (prompt, output, sequences)
            asyncio.get_running_loop().call_soon(self._observe, service.name, done, sizes)

    def _observe(self, model: str, done: Finished, sizes: tuple[int, int, int]) -> None:
        """Count a request of so many prompt tokens, output tokens and sequences as observed."""
        assert self._observed is not None
        prompt, output, sequences = sizes
        session = self._sessions.of(Affinity.SESSION, done.session_header, done.request)
        number = 0 if session is None else session.number
        seen = seen_prompt(done.request, number, prompt, self._sessions.salt)
        for again in range(sequences):
            self._observed.add(model, done.arrival_s, prompt, output, None if again else seen)

    def _judge(self, usage: Usage, lease: Lease, done: Finished) -> None:
        """Count a stream as within the plan's limits or not; of a whole answer the first token is not seen."""
        slo, tokens = lease.service.plan.slo, usage.completion_tokens
        if done.first_byte_s is None or (slo.tpot_s is not None and tokens is None):
            return
        met = slo.ttft_s is None or done.first_byte_s - done.arrival_s <= slo.ttft_s
        if slo.tpot_s is not None and tokens is not None and tokens > 1:
            met &= (done.ended_s - done.first_byte_s) / (tokens - 1) <= slo.tpot_s
        result = "met" if met else "missed"
        self._metrics.slo.add(lease.service.name, lease.backend.option, result)

    def _times(self, lease: Lease, done: Finished) -> None:
        names = lease.service.name, lease.backend.option
        if done.first_byte_s is not None:
            self._metrics.ttft_s.observe(done.first_byte_s - done.arrival_s, *names)
        self._metrics.e2e_s.observe(done.ended_s - done.arrival_s, *names)


def _document(answer: ReplicaAnswer) -> dict[str, Any]:
    """Return an answer as it was parsed; of a large one the counts that stand last in it."""
    text = answer.plain()
    if answer.file is not None:
        found = _LAST_USAGE.findall(text)
        text = b'{"usage":' + found[-1] + b"}" if found else b"{}"
    try:
        document = parsed(text, json.loads)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
