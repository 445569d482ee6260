"""The HTTP side: which paths there are, who may call them, how much may be sent, and what errors say."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import uuid
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from melange_sky.gateway.client_request import ApiPath, Refusal, parse_request, shown
from melange_sky.gateway.running import out_of
from melange_sky.gateway.standing import Standing, unanswered
from melange_sky.gateway.upstream import forwarded_headers

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.gateway.metrics import Metrics
    from melange_sky.gateway.pool import Fleet
    from melange_sky.gateway.proxy import Proxy
    from melange_sky.gateway.settings import Keys, Settings

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_POSTS = {endpoint.value: endpoint for endpoint in ApiPath}
_GETS = ("/health", "/metrics", "/v1/models")
_MODEL = "/v1/models/"
_NEW_S = 1.0
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
        self.accepted = 0
        """Requests let in and not answered yet, those whose body is still coming included."""
        self._held_bytes = 0

    def body_bytes(self) -> int:
        """Return the largest body."""
        return self._fleet.body_bytes

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; a Refusal becomes OpenAI's error form."""
        try:
            return await self._route(request)
        except Refusal as refusal:
            return self._refuse(request, refusal)
        except asyncio.CancelledError:
            self._metrics.answers.labels("", "499").inc()
            raise
        except ConnectionError:
            # The client left while it was written to: there is nobody to answer, and no error.
            self._metrics.answers.labels("", "499").inc()
            return web.Response(status=499)
        except Exception:
            log.exception("a request failed for a reason within the gateway")
            return self._refuse(request, Refusal(500, "internal error", "internal"))

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path, method = request.path, request.method
        endpoint = _POSTS.get(path)
        if endpoint is not None:
            self._check(method == "POST", 405)
            return await self._complete(request, endpoint)
        self._check(path in _GETS or path.startswith(_MODEL), 404)
        self._check(method in ("GET", "HEAD"), 405)
        if path == "/health":
            return self._health()
        self._authorize(request)
        if path == "/metrics":
            return web.Response(body=self._metrics_text(), content_type="text/plain")
        if path.startswith(_MODEL):
            return web.json_response(self._model(path.removeprefix(_MODEL)))
        data = [_card(name) for name in self._fleet.by_model]
        return web.json_response({"object": "list", "data": data})

    @staticmethod
    def _check(good: bool, status: int) -> None:
        if not good:
            message, code = {
                404: ("no such path", "not_found"),
                405: ("this path does not allow the method", "method_not_allowed"),
            }[status]
            raise Refusal(status, message, code)

    def _authorize(self, request: web.BaseRequest) -> None:
        given = request.headers.get("Authorization")
        if given is None and "x-api-key" in request.headers:  # as Anthropic's clients send it
            given = f"Bearer {request.headers['x-api-key']}"
        if not self._keys.accept(given):
            raise Refusal(401, "a valid API key is needed (Authorization: Bearer)", "invalid_key")

    async def _complete(self, request: web.BaseRequest, endpoint: ApiPath) -> web.StreamResponse:
        self._authorize(request)
        if self.draining:
            raise Refusal(503, "the gateway is shutting down", "draining", retry_after_s=1)
        if self.accepted >= self.most_requests:
            raise out_of("open files")
        held_bytes = self._due_bytes(request)
        if self._held_bytes + held_bytes > self._settings.held_bytes:
            raise out_of("memory for bodies")
        self.accepted += 1
        self._held_bytes += held_bytes
        try:
            body = await self._body(request)
            self._held_bytes += len(body) - held_bytes
            held_bytes = len(body)
            return await self._serve(request, endpoint, body)
        finally:
            self.accepted -= 1
            self._held_bytes -= held_bytes

    def _due_bytes(self, request: web.BaseRequest) -> int:
        """Return how long a body is said to be; in chunks, which do not say, as long as it may be."""
        if request.content_length is not None:
            return min(request.content_length, self._fleet.body_bytes)
        return self._fleet.body_bytes if request.body_exists else 0

    async def _serve(
        self, request: web.BaseRequest, endpoint: ApiPath, body: bytes
    ) -> web.StreamResponse:
        parsed = parse_request(endpoint, body)
        service = self._fleet.find(parsed.model)
        if service is None:
            raise _unknown(parsed.model)
        headers = forwarded_headers(_request_id(request), request.headers.get("traceparent"))
        return await self._proxy.serve(request, service, parsed, headers)

    async def _body(self, request: web.BaseRequest) -> bytes:
        """Read the body within its limits of size and time."""
        encoding = request.headers.get("Content-Encoding", "identity")
        if encoding.casefold() != "identity":
            raise Refusal(415, "a compressed body is not accepted", "unsupported_encoding")
        limit = self._fleet.body_bytes
        if (request.content_length or 0) > limit:
            raise Refusal(413, f"the body is larger than {limit} bytes", "body_too_large")
        if request.headers.get("Expect", "").casefold() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if request.content.is_eof():
                return await request.read()
            return await asyncio.wait_for(request.read(), self._settings.body_s)
        except web.HTTPRequestEntityTooLarge:
            raise Refusal(413, f"the body is larger than {limit} bytes", "body_too_large") from None
        except asyncio.TimeoutError:
            raise Refusal(408, "the body did not arrive in time", "body_timeout") from None
        except HttpProcessingError:
            raise Refusal(400, "the body is not valid HTTP", "invalid_http") from None

    def _health(self) -> web.Response:
        now_s = asyncio.get_running_loop().time()
        plans = {
            name: any(b.healthy(now_s) for b in service.backends)
            for name, service in self._fleet.services.items()
        }
        status = "draining" if self.draining else "ok" if any(plans.values()) else "no replica"
        good = status == "ok"
        served = [(service.plan, service.backends) for service in self._fleet.services.values()]
        document = {
            "status": status,
            "plans": plans,
            "revision": self.standing.revision,
            "unanswered_options": len(unanswered(served, now_s)),
            "leaving_requests": self.standing.leaving,
        }
        return web.json_response(document, status=200 if good else 503)

    def _model(self, name: str) -> dict[str, object]:
        if name not in self._fleet.by_model:
            raise _unknown(name)
        return _card(name)

    def _metrics_text(self) -> bytes:
        """Bring the gauges up to date and return the text."""
        now_s = asyncio.get_running_loop().time()
        metrics = self._metrics
        metrics.in_flight.clear()
        metrics.healthy.clear()
        metrics.planned_rps.clear()
        for name, service in self._fleet.services.items():
            for allocation in service.plan.allocations:
                option = allocation.candidate.option.name
                backends = [b for b in service.backends if b.option == option]
                metrics.in_flight.labels(name, option).set(sum(b.in_flight for b in backends))
                healthy = sum(b.replicas for b in backends if b.healthy(now_s))
                metrics.healthy.labels(name, option).set(healthy)
                for i, j in service.plan.workload.buckets():
                    share = allocation.shares[i][j]
                    if share > 0:
                        rate = share * service.plan.workload.rates_rps[i][j]
                        metrics.planned_rps.labels(
                            name,
                            option,
                            service.seating.input_buckets[i],
                            service.seating.output_buckets[j],
                        ).set(rate)
        return metrics.text()

    def _refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.Response:
        self._metrics.answers.labels("", str(refusal.status)).inc()
        headers = {"Content-Type": "application/json"}
        if refusal.retry_after_s is not None:
            headers["Retry-After"] = str(refusal.retry_after_s)
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if refusal.status == 405:
            headers["Allow"] = "POST" if request.path in _POSTS else "GET, HEAD"
        body = refusal.body(anthropic=request.path in _ANTHROPIC)
        response = web.Response(status=refusal.status, body=body, headers=headers)
        if refusal.status in (408, 413) or refusal.code == "gateway_limit" or self.draining:
            response.force_close()
        return response


def _card(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "melange-sky"}


def _unknown(model: str | None) -> Refusal:
    name = "none given" if model is None else f"'{shown(model)}'"
    return Refusal(404, f"no such model ({name}); see /v1/models", "model_not_found", param="model")


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class Handler(web.RequestHandler):
    """aiohttp's handler of a connection, but for what it says of requests that are not HTTP."""

    __slots__ = ("opened_s",)

    def __init__(self, *args: Any, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        """Note when the connection came."""
        super().__init__(*args, loop=loop, **kwargs)
        self.opened_s = loop.time()

    @property
    def idle(self) -> bool:
        """Whether the connection waits for its next request, and is no new one."""
        return self._current_request is None and self._loop.time() - self.opened_s > _NEW_S

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer in OpenAI's form. aiohttp would log and send back the line, which may hold a key."""
        log.info("a request that is not HTTP: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has already begun")
        refusal = Refusal(status, "the request is not valid HTTP", "invalid_http")
        response = web.Response(
            status=status, body=refusal.body(), headers={"Content-Type": "application/json"}
        )
        response.force_close()
        return response


class GatewayServer(web.Server):
    """aiohttp's low-level server with limits on connections, headers and bodies."""

    def __init__(self, front: Front, settings: Settings) -> None:
        """Make the server; call within a running loop."""
        super().__init__(
            front.handle,
            request_factory=self._bounded_request,
            handler_cancellation=True,
            access_log=None,
            # Bounds the wait for a request's headers too, from the connection's start.
            keepalive_timeout=settings.header_s,
            max_line_size=settings.header_bytes,
            max_field_size=settings.header_bytes,
            max_headers=settings.headers,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._body_bytes = front.body_bytes

    def __call__(self) -> web.RequestHandler:
        """Return the handler of a new connection."""
        return Handler(self, loop=self._loop, **self._kwargs)

    def _bounded_request(self, message, payload, protocol, writer, task):  # type: ignore[no-untyped-def]
        return web.BaseRequest(
            message,
            payload,
            protocol,
            writer,
            task,
            self._loop,
            client_max_size=self._body_bytes(),
        )

    @property
    def open_connections(self) -> int:
        """How many clients' connections are open."""
        return len(self._connections)

    def close_idle(self) -> bool:
        """Close the oldest connection that waits for its next request; return whether there was one."""
        for handler, transport in self._connections.items():
            if isinstance(handler, Handler) and handler.idle and not transport.is_closing():
                transport.close()
                return True
        return False


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the TLS settings of the listener."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
