"""Which requests belong together: the session of a request, by what its client says or by how its prompt begins.

In mode `session` the first of these names it: the header; in the body `session_id`, `conversation`,
`previous_response_id`, `prompt_cache_key`, `safety_identifier`, `user`, Anthropic's `metadata.user_id`; else the
beginning of a chat up to its first message of the user, which every later turn repeats. In mode `prefix`
the first characters of the prompt do, whoever sends it. What is kept are hashes, never the text itself.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky.gateway.affinity import Affinity
from melange_sky.gateway.client_request import ApiPath
from melange_sky.gateway.prompts import opening
from melange_sky.routing import affinity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.gateway.backend import Backend
    from melange_sky.gateway.client_request import ClientRequest

_NAMES = ("session_id", "conversation", "prompt_cache_key", "safety_identifier", "user")
_CHATS = (ApiPath.CHAT, ApiPath.RESPONSES, ApiPath.MESSAGES)
_MOST_CHARACTERS = 16 * 1024
BLOCK_CHARACTERS = 256
"""A block of a prompt's beginning: about 64 tokens of English."""
MOST_KNOWN = 65_536
"""Sessions and stored answers that are remembered; the longest unused are forgotten first."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session by its hash (`routing.affinity`); `keeper` holds the answer that the request goes on from."""

    number: int
    keeper: Backend | None = None


class Sessions:
    """Finds the sessions of requests, and remembers where they were last; at most `MOST_KNOWN` of each."""

    def __init__(self, header: str, prefix_blocks: int, salt: bytes | None = None) -> None:
        """Start without any. `header` names sessions, `prefix_blocks` are compared in mode `prefix`.

        Workers whose hashes are counted together have the same `salt`; None: one of its own.
        """
        self.header = header.lower().encode()
        self._prefix_characters = prefix_blocks * BLOCK_CHARACTERS
        self.salt = salt or os.urandom(16)
        self._last: OrderedDict[int, Backend] = OrderedDict()
        self._answers: OrderedDict[bytes, Session] = OrderedDict()

    def of(self, mode: Affinity, given: str | None, request: ClientRequest) -> Session | None:
        """Return the session of a request, None where it has none. `given`: what its header says."""
        if mode is Affinity.OFF or not request.endpoint.generates:
            return None
        if mode is Affinity.PREFIX:
            return Session(_number("prefix", opening(request, self._prefix_characters)))
        previous = request.document.get("previous_response_id")
        known = self._answers.get(self._hash(previous)) if isinstance(previous, str) else None
        named = given or _named(request.document)
        if named:
            return Session(_number("name", named), None if known is None else known.keeper)
        if isinstance(previous, str):
            return known or Session(_number("answer", previous))
        if request.endpoint not in _CHATS:
            return None
        text = opening(request, _MOST_CHARACTERS, until_user=True)
        return Session(_number("beginning", text)) if text else None

    def went(self, session: Session, backend: Backend, place: int) -> str:
        """Note where a session's request goes; return how that is counted in the metrics."""
        before = self._last.pop(session.number, None)
        _remember(self._last, session.number, backend)
        if before is None:
            return "first"
        if before is backend:
            return "hit"
        return "spilled" if place == affinity.ELSEWHERE else "moved"

    def answered(self, session: Session, backend: Backend, response_id: str) -> None:
        """Note which replica keeps an answer that a later request may go on from."""
        _remember(self._answers, self._hash(response_id), Session(session.number, backend))

    def forget(self, backends: list[Backend]) -> None:
        """Forget replicas other than these."""
        known = set(map(id, backends))
        for number in [n for n, b in self._last.items() if id(b) not in known]:
            del self._last[number]
        for key in [k for k, s in self._answers.items() if id(s.keeper) not in known]:
            del self._answers[key]

    def _hash(self, text: str) -> bytes:
        return hashlib.blake2b(_bytes(text), digest_size=12, key=self.salt).digest()


def _remember(known: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    known[key] = value
    if len(known) > MOST_KNOWN:
        known.popitem(last=False)


def _named(document: Mapping[str, Any]) -> str | None:
    """Return the name that a body gives its session."""
    for name in _NAMES:
        value = document.get(name)
        if isinstance(value, dict):
            value = value.get("id")
        if isinstance(value, str) and value:
            return value
        if name == "conversation" and isinstance(document.get("previous_response_id"), str):
            return None  # what follows may be the same for all requests of a user
    metadata = document.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    return user if isinstance(user, str) and user else None


def _number(kind: str, text: str) -> int:
    """Return the session that a text stands for: the same at every gateway, so not salted, nor written."""
    digest = hashlib.blake2b(_bytes(text), digest_size=8, person=kind.encode()).digest()
    return affinity.session_of(int.from_bytes(digest, "big"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
