"""The endpoint under load, what its streamed answers say, and what to report where they make no sense."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from melange_sky.errors import InputError
from melange_sky.streams import (
    Usage,
    end_of_events,
    event_data,
    foreign_line,
    read_chunk,
    split_events,
)

if TYPE_CHECKING:
    from melange_sky.engines import Engine

_SHOWN = 160
_MOST_HELD = 1_000_000
_NO_USAGE = "no usage in the stream (the server ignores stream_options)"
_HALF_USAGE = "usage without completion_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPages:
    """What a server says of itself besides its answers, and where.

    `metrics`: name on its Prometheus page → `running`, `waiting`, `kv_use` or `preemptions`.
    """

    metrics: Mapping[str, str] = field(default_factory=dict)
    version_path: str = "/version"
    health_path: str = "/health"

    @classmethod
    def of(cls, engine: Engine) -> ServerPages:
        """Return the pages of an engine's server."""
        return cls(
            metrics=dict(engine.metrics),
            version_path=engine.version_path,
            health_path=engine.health_path,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server. `url` is its base with or without ``/v1``.

    `api_key` never appears in a message, a file or a repr. `timeout_s` bounds one request from sent
    to last token.
    """

    url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    pages: ServerPages = field(default_factory=ServerPages)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            good = False
        if not good:
            raise InputError(
                f"--url '{self.url[:_SHOWN]}' is not an http:// or https:// address; "
                "give the server's base, such as http://127.0.0.1:8000"
            )

    @property
    def base(self) -> str:
        """The address without a trailing slash and without ``/v1``."""
        return re.sub(r"(/v1)?/*$", "", self.url.rstrip("/"))

    @property
    def shown(self) -> str:
        """The address for people: without user, password and query."""
        parts = urlsplit(self.base)
        host = parts.hostname or ""
        return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"[
            :_SHOWN
        ]

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers


class StreamBroken(Exception):  # noqa: N818 - one request's fate, counted, never the run's error
    """An answer that is not a complete stream; its text is the request's error."""


@dataclass(slots=True, kw_only=True)
class StreamReader:
    """Takes in one streamed completion, bytes as they come with the time at which they came.

    Chunks are not tokens: a busy server merges several tokens into one, and an empty chunk brings none.
    So only the first and the last time of output count, and the number of tokens comes from `usage`.
    Events that end together share their time. `model` is the name by which the server answers.
    """

    first_s: float | None = None
    last_s: float | None = None
    model: str | None = None
    finished: bool = False
    usage: Usage = field(default_factory=Usage)
    _rest: bytes = b""

    @property
    def prompt_tokens(self) -> int | None:
        """The prompt's tokens as the server counts them."""
        return self.usage.prompt_tokens

    @property
    def completion_tokens(self) -> int | None:
        """The output tokens as the server counts them."""
        return self.usage.completion_tokens

    def feed(self, data: bytes, now_s: float) -> None:
        """Read bytes. Raises StreamBroken where they are not server-sent events of completions."""
        buffer = self._rest + data
        end = end_of_events(buffer, max(0, len(self._rest) - 3))
        self._rest = buffer[end:]
        if len(self._rest) > _MOST_HELD:
            raise StreamBroken("malformed SSE: an event longer than 1 MB")
        for event in split_events(buffer[:end]):
            self._event(event, now_s)
        if self._rest and (foreign := foreign_line(self._rest)) is not None:
            raise StreamBroken(f"malformed SSE: {shorten(foreign)}")

    def _event(self, event: bytes, now_s: float) -> None:
        payload = event_data(event)
        if payload is None:
            if (foreign := foreign_line(event)) is not None:
                raise StreamBroken(f"malformed SSE: {shorten(foreign)}")
            return
        try:
            chunk = read_chunk(payload)
        except ValueError:
            raise StreamBroken(f"malformed SSE: {shorten(payload)}") from None
        if chunk.error:
            raise StreamBroken(f"error in the stream: {shorten(str(chunk.error).encode())}")
        self.finished |= chunk.finished
        if self.model is None and chunk.model is not None:
            self.model = chunk.model[:_SHOWN]
        if chunk.has_output:
            self.last_s = now_s
            if self.first_s is None:
                self.first_s = now_s
        self.usage.update(chunk.usage)

    def close(self, wanted_tokens: int, now_s: float) -> None:
        """Read what came without an end and check that the stream ended well. Raises StreamBroken."""
        if self._rest:
            self._event(self._rest, now_s)
        got = self.completion_tokens
        if not self.finished:
            raise StreamBroken("the stream ended early, without [DONE]")
        if got is None:
            raise StreamBroken(_NO_USAGE if self.prompt_tokens is None else _HALF_USAGE)
        if self.first_s is None:
            raise StreamBroken("the stream ended without a token")
        if got < wanted_tokens:
            raise StreamBroken(
                f"ended early: {got} of {wanted_tokens} output tokens (min_tokens ignored?)"
            )


def shorten(text: bytes) -> str:
    """Return the start of what a server sent as one printable line.

    >>> shorten(b"bad gateway" + bytes([10]) + b"<html>")
    'bad gateway <html>'
    """
    plain = text[: 4 * _SHOWN].decode("utf-8", errors="replace")
    one_line = " ".join("".join(c if c.isprintable() else " " for c in plain).split())
    return one_line if len(one_line) <= _SHOWN else one_line[: _SHOWN - 1] + "…"


def http_problem(status: int, body: bytes) -> str:
    """Return ``HTTP 500: what it said``, the message of an OpenAI-style error where there is one."""
    try:
        said: Any = json.loads(body)
        inner = said.get("error", said)
        message = inner.get("message") if isinstance(inner, dict) else inner
    except (ValueError, AttributeError, RecursionError):
        message = None
    text = shorten(str(message).encode() if message else body)
    return f"HTTP {status}: {text}" if text else f"HTTP {status}"
