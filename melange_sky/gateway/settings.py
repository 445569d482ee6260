"""The gateway's settings: limits, times, keys. Everything has a default that suits LLM serving."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from melange_sky.gateway.affinity import Affinity
from melange_sky.routing import QUEUE_LENGTH, QUEUE_WAIT_S

if TYPE_CHECKING:
    from melange_sky.plans import Plan
    from melange_sky.reuse import SeenPrompt


_LEAST_HELD_BYTES = 64 * 1024 * 1024


class Keys:
    """API keys of which any one is accepted. Holds their digests only, and shows nothing of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Take the accepted keys; none means that no key is demanded."""
        self._digests = tuple(_digest(key.encode()) for key in keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Keys({len(self._digests)})"

    def accept(self, authorization: str | None) -> bool:
        """Return whether an Authorization header carries one of the keys, in constant time."""
        if not self._digests:
            return True
        scheme, _, given = (authorization or "").partition(" ")
        digest = _digest(given.strip().encode("utf-8", "surrogateescape"))
        matched = False
        for known in self._digests:  # no early end: the time must not tell which key is near
            matched |= hmac.compare_digest(digest, known)
        return matched and scheme.casefold() == "bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class Secret:
    """One key that the gateway sends. Its text is only had by `reveal`."""

    def __init__(self, text: str | None) -> None:
        """Keep the text; None or empty means that no key is sent."""
        self._text = text or None

    def __bool__(self) -> bool:
        return self._text is not None

    def __repr__(self) -> str:
        return "Secret(…)" if self._text else "Secret(none)"

    def reveal(self) -> str | None:
        """Return the text."""
        return self._text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits of the gateway. Times in seconds, sizes in bytes.

    `first_byte_s` bounds the wait for a stream's first byte, `answer_s` that for an answer that is
    not streamed, `idle_s` a silence within a stream, `stall_s` a client that stops reading.
    `queue_length` requests wait at most `queue_wait_s` while all replicas that could serve them are
    full. `header_s` bounds the wait for a request's headers and for the next request of a connection;
    it outlasts the 60 s of usual proxies, so that these never send on a closed one. `attempts` replicas
    are tried for a request that fails alike at all of them, twice as many at most; at most `retry_share`
    of the requests under way, or `retries_least`, are at a second or later one at once. An answer that
    has begun must have its first event within `event_s`, or, not streamed, go on at a kilobyte a second.

    A backend whose last outcomes, at least `outlier_volume` within `outlier_window_s`, failed by
    `outlier_share` or more, and by `outlier_margin` more than the others', is left out for `ejection_s`,
    doubled up to `ejection_most_s`; never more than `ejected_part` of a service's backends are.
    `body_bytes` bounds a body; None: by the longest context of a model. `answer_bytes` bounds an answer that is not streamed, `held_bytes` the bodies of all requests under way.
    `gateways` is how many gateways share the replicas: each then counts its own requests that many
    times. `drain_s` is what requests in flight get at the end. `affinity` says what is kept together at a
    replica, None: what the plan was made for; `session_header` names sessions, `prefix_blocks` is how much of a
    prompt's beginning does (`sessions`). Replicas' own counts are read every `counts_every_s`, where a plan
    counts on prefix caches.
    """

    body_bytes: int | None = None
    header_bytes: int = 16 * 1024
    headers: int = 64
    connections: int = 8192
    header_s: float = 75.0
    body_s: float = 30.0
    connect_s: float = 5.0
    first_byte_s: float = 60.0
    answer_s: float = 600.0
    idle_s: float = 60.0
    stall_s: float = 60.0
    queue_length: int = QUEUE_LENGTH
    queue_wait_s: float = QUEUE_WAIT_S
    attempts: int = 3
    probe_every_s: float = 2.0
    probe_s: float = 2.0
    probe_failures: int = 2
    outlier_window_s: float = 20.0
    outlier_volume: int = 5
    outlier_share: float = 0.5
    outlier_margin: float = 0.3
    ejected_part: float = 0.5
    ejection_s: float = 1.0
    ejection_most_s: float = 30.0
    retries_least: int = 32
    retry_share: float = 0.25
    event_s: float = 5.0
    answer_bytes: int = 256 * 1024 * 1024
    held_bytes: int = 512 * 1024 * 1024
    counts_every_s: float = 15.0
    watch_every_s: float = 2.0
    observe_every_s: float = 60.0
    drain_s: float = 120.0
    gateways: int = 1
    affinity: Affinity | None = None
    session_header: str = "X-Session-Id"
    prefix_blocks: int = 4

    def for_one_of(self, workers: int) -> Settings:
        """Return the settings of one of several workers: what bounds the whole gateway is divided."""
        if workers == 1:
            return self
        return replace(
            self,
            gateways=self.gateways * workers,
            queue_length=-(-self.queue_length // workers),
            retries_least=-(-self.retries_least // workers),
            held_bytes=max(self.held_bytes // workers, _LEAST_HELD_BYTES),
        )


class ObservedSink(Protocol):
    """Where finished requests are counted: sizes and times only, never content."""

    def add(
        self,
        model: str,
        arrival_s: float,
        input_tokens: int,
        output_tokens: int,
        prompt: SeenPrompt | None = None,
    ) -> None:
        """Count one finished request, and what its `prompt` shares where that can be told."""

    def write(self) -> None:
        """Write what was counted, whole or not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where plan and backends come from; both are asked again while the gateway runs.

    `discover` returns URLs by option name (`MODEL_PLAN/OPTION` where several models are planned);
    ``*N`` after a URL says that it stands for N replicas. `revision` names what `load_plan` last read,
    None where that is no file. `watch` are files whose change means reload.
    Both callables may block and may raise MelangeError; the last good state is then kept.
    """

    load_plan: Callable[[], Plan]
    discover: Callable[[], Mapping[str, Sequence[str]]]
    revision: Callable[[], str | None] = lambda: None
    watch: tuple[Path, ...] = ()
    tokenizer: Path | None = None
    observed: ObservedSink | None = None
