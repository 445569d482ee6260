"""The HTTP side: which paths there are, who may call them, how much may be sent, and what errors say."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import ssl
from typing import TYPE_CHECKING

from melange_sky.gateway.calls import CLIENT_LEFT, BadRequestError, Call, TooLargeBodyError
from melange_sky.gateway.client_request import ApiPath, Refusal, parse_request, shown
from melange_sky.gateway.metrics import of_all
from melange_sky.gateway.running import out_of
from melange_sky.gateway.siblings import health_of_all
from melange_sky.gateway.standing import Standing, unanswered
from melange_sky.gateway.upstream import forwarded_headers

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.gateway.metrics import Metrics
    from melange_sky.gateway.pool import Fleet
    from melange_sky.gateway.proxy import Proxy
    from melange_sky.gateway.settings import Keys, Settings
    from melange_sky.gateway.siblings import Siblings, State

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_POSTS = {endpoint.value: endpoint for endpoint in ApiPath}
_GETS = ("/health", "/metrics", "/v1/models")
_MODEL = "/v1/models/"
_ANTHROPIC = (ApiPath.MESSAGES.value, ApiPath.COUNT_TOKENS.value)


class Front:
    """Answers every request; nothing but the paths named here exists."""

    def __init__(
        self, settings: Settings, keys: Keys, fleet: Fleet, proxy: Proxy, metrics: Metrics
    ) -> None:
        """Keep the parts."""
        self._settings, self._keys, self._fleet = settings, keys, fleet
        self._proxy, self._metrics = proxy, metrics
        self.draining = False
        self.most_requests = settings.connections
        """How many requests there may be at once, by the limit of open files."""
        self.standing = Standing()
        self.siblings: Siblings | None = None
        self.accepted = 0
        """Requests let in and not answered yet, those whose body is still coming included."""
        self._held_bytes = 0

    def body_bytes(self) -> int:
        """Return the largest body."""
        return self._fleet.body_bytes

    async def handle(self, call: Call) -> None:
        """Answer one call; a Refusal becomes OpenAI's error form."""
        try:
            await self._route(call)
        except Refusal as refusal:
            self._refuse(call, refusal)
        except asyncio.CancelledError:
            self._metrics.answers.add("", str(CLIENT_LEFT))
            raise
        except Exception:
            log.exception("a request failed for a reason within the gateway")
            if not call.begun:
                self._refuse(call, Refusal(500, "internal error", "internal"))

    async def _route(self, call: Call) -> None:
        path, method = call.path, call.method
        if path is None:
            raise Refusal(400, "the request is not valid HTTP", "invalid_http")
        endpoint = _POSTS.get(path)
        if endpoint is not None:
            self._check(method == "POST", 405)
            await self._complete(call, endpoint)
            return
        self._check(path in _GETS or path.startswith(_MODEL), 404)
        self._check(method in ("GET", "HEAD"), 405)
        if path == "/health":
            await self._health(call)
            return
        self._authorize(call)
        if path == "/metrics":
            call.answer(
                200, {"Content-Type": "text/plain; charset=utf-8"}, await self._metrics_text()
            )
        elif path.startswith(_MODEL):
            _answer_json(call, 200, self._model(path.removeprefix(_MODEL)))
        else:
            data = [_card(name) for name in self._fleet.by_model]
            _answer_json(call, 200, {"object": "list", "data": data})

    @staticmethod
    def _check(good: bool, status: int) -> None:
        if not good:
            message, code = {
                404: ("no such path", "not_found"),
                405: ("this path does not allow the method", "method_not_allowed"),
            }[status]
            raise Refusal(status, message, code)

    def _authorize(self, call: Call) -> None:
        given = call.header(b"authorization")
        if given is None and b"x-api-key" in call.headers:  # as Anthropic's clients send it
            given = f"Bearer {call.header(b'x-api-key')}"
        if not self._keys.accept(given):
            raise Refusal(401, "a valid API key is needed (Authorization: Bearer)", "invalid_key")

    async def _complete(self, call: Call, endpoint: ApiPath) -> None:
        self._authorize(call)
        if self.draining:
            raise Refusal(503, "the gateway is shutting down", "draining", retry_after_s=1)
        if self.accepted >= self.most_requests:
            raise out_of("open files")
        held_bytes = self._due_bytes(call)
        if self._held_bytes + held_bytes > self._settings.held_bytes:
            raise out_of("memory for bodies")
        self.accepted += 1
        self._held_bytes += held_bytes
        try:
            body = await self._body(call)
            self._held_bytes += len(body) - held_bytes
            held_bytes = len(body)
            await self._serve(call, endpoint, body)
        finally:
            self.accepted -= 1
            self._held_bytes -= held_bytes

    def _due_bytes(self, call: Call) -> int:
        """Return how long a body is, or is said to be; in chunks, which do not say, as long as it may be."""
        length = call.size if call.complete else call.content_length
        if length is not None:
            return min(length, self._fleet.body_bytes)
        return self._fleet.body_bytes if call.body_due else 0

    async def _serve(self, call: Call, endpoint: ApiPath, body: bytes) -> None:
        parsed = parse_request(endpoint, body)
        service = self._fleet.find(parsed.model)
        if service is None:
            raise _unknown(parsed.model)
        headers = forwarded_headers(_request_id(call), call.header(b"traceparent"))
        await self._proxy.serve(call, service, parsed, headers)

    async def _body(self, call: Call) -> bytes:
        """Read the body within its limits of size and time."""
        if call.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Refusal(415, "a compressed body is not accepted", "unsupported_encoding")
        limit = self._fleet.body_bytes
        too_large = Refusal(413, f"the body is larger than {limit} bytes", "body_too_large")
        if (call.content_length or 0) > limit:
            raise too_large
        try:
            return await call.body(self._settings.body_s)
        except TooLargeBodyError:
            raise too_large from None
        except asyncio.TimeoutError:
            raise Refusal(408, "the body did not arrive in time", "body_timeout") from None
        except BadRequestError:
            raise Refusal(400, "the body is not valid HTTP", "invalid_http") from None

    async def _health(self, call: Call) -> None:
        document = self._standing()
        if self.siblings is not None:
            gathered = await self.siblings.gather()
            document = health_of_all(gathered, self.siblings.count)
        _answer_json(call, 200 if document["status"] == "ok" else 503, document)

    def state(self) -> State:
        """Return what this worker tells the others."""
        self._refresh_gauges()
        return {"sums": self._metrics.state(), "health": self._standing()}

    def _standing(self) -> dict[str, object]:
        now_s = asyncio.get_running_loop().time()
        plans = {
            name: any(b.healthy(now_s) for b in service.backends)
            for name, service in self._fleet.services.items()
        }
        status = "draining" if self.draining else "ok" if any(plans.values()) else "no replica"
        served = [(service.plan, service.backends) for service in self._fleet.services.values()]
        return {
            "status": status,
            "plans": plans,
            "revision": self.standing.revision,
            "unanswered_options": len(unanswered(served, now_s)),
            "leaving_requests": self.standing.leaving,
        }

    def _model(self, name: str) -> dict[str, object]:
        if name not in self._fleet.by_model:
            raise _unknown(name)
        return _card(name)

    async def _metrics_text(self) -> bytes:
        """Return the text of all metrics, of all workers where there are several."""
        if self.siblings is None:
            self._refresh_gauges()
            return self._metrics.text()
        return of_all(await self.siblings.gather(), self.siblings.count).text()

    def _refresh_gauges(self) -> None:
        now_s = asyncio.get_running_loop().time()
        metrics = self._metrics
        metrics.in_flight.values.clear()
        metrics.healthy.values.clear()
        metrics.planned_rps.values.clear()
        for name, service in self._fleet.services.items():
            for allocation in service.plan.allocations:
                option = allocation.candidate.option.name
                backends = [b for b in service.backends if b.option == option]
                metrics.in_flight.set(name, option, value=sum(b.in_flight for b in backends))
                healthy = sum(b.replicas for b in backends if b.healthy(now_s))
                metrics.healthy.set(name, option, value=healthy)
                for i, j in service.plan.workload.buckets():
                    share = allocation.shares[i][j]
                    if share > 0:
                        rate = share * service.plan.workload.rates_rps[i][j]
                        metrics.planned_rps.set(
                            name,
                            option,
                            service.seating.input_buckets[i],
                            service.seating.output_buckets[j],
                            value=rate,
                        )

    def _refuse(self, call: Call, refusal: Refusal) -> None:
        self._metrics.answers.add(refusal.plan, str(refusal.status))
        headers = {"Content-Type": "application/json"}
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if refusal.status == 405:
            headers["Allow"] = "POST" if call.path in _POSTS else "GET, HEAD"
        if refusal.status in (408, 413) or refusal.code == "gateway_limit" or self.draining:
            call.keep_alive = False
        call.answer(refusal.status, headers, refusal.body(anthropic=call.path in _ANTHROPIC))


def _answer_json(call: Call, status: int, document: object) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    call.answer(status, headers, json.dumps(document).encode())


def _card(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "melange-sky"}


def _unknown(model: str | None) -> Refusal:
    name = "none given" if model is None else f"'{shown(model)}'"
    return Refusal(404, f"no such model ({name}); see /v1/models", "model_not_found", param="model")


def _request_id(call: Call) -> str:
    given = call.header(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return f"{random.getrandbits(128):032x}"  # told apart is enough: it need not be a secret


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the TLS settings of the listener."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
