"""Streamed answers: server-sent events in every valid form, and what an event of an LLM's stream says.

The one reader of gateway and load generator, so that both see the same tokens, counts and errors.
Format: the WHATWG's "Server-sent events" (lines end in LF, CRLF or CR; an empty line ends an event;
comments, unknown fields and data over several lines are allowed). Chunks are those of OpenAI's
completions, chat completions and responses and of Anthropic's messages.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_LINE_END = rb"(?:\r\n|\n|\r(?!\n))"
_EVENT_END = re.compile(_LINE_END + b"{2}")
_LINE = re.compile(rb"\r\n|\n|\r")
_FIELD = re.compile(rb"(?:[A-Za-z_-]{1,64})?(?::|$)")
_BOM = b"\xef\xbb\xbf"
_MOST_TOKENS = 1 << 40
_TEXTS = ("content", "text", "reasoning_content", "reasoning", "refusal", "thinking")
_CALLS = ("tool_calls", "function_call", "partial_json", "audio")
DONE = b"[DONE]"


def end_of_events(data: bytes, start: int = 0) -> int:
    """Return where the last whole event of `data` ends, 0 where none does; `start`: look from there on.

    >>> end_of_events(b"data: a" + bytes([13, 10, 13, 10]) + b"data: b" + bytes([13, 10]))
    11
    """
    if b"\r" not in data:
        at = data.rfind(b"\n\n", start)
        return at + 2 if at >= 0 else 0
    last = 0
    for found in _EVENT_END.finditer(data, start):
        last = found.end()
    return last


def split_events(whole: bytes) -> list[bytes]:
    """Return the events of `whole`, which ends with one, each with the empty line that ends it."""
    events, start = [], 0
    for found in _EVENT_END.finditer(whole):
        events.append(whole[start : found.end()])
        start = found.end()
    if start < len(whole):
        events.append(whole[start:])
    return events


def event_data(event: bytes) -> bytes | None:
    """Return what an event carries, its data lines joined; None for a comment or an empty event.

    >>> event_data(b": waiting"), event_data(b"event: x" + bytes([13]) + b"data: a" + bytes([13]) + b"data:b")
    (None, b'a\\nb')
    """
    values = []
    for line in _LINE.split(event.removeprefix(_BOM)):
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
    return b"\n".join(values) if values else None


def foreign_line(text: bytes) -> bytes | None:
    """Return the first line that can be no part of an event stream, such as a page of HTML; else None.

    The last line may be the beginning of one.
    """
    *lines, last = _LINE.split(text.removeprefix(_BOM))
    for line in lines:
        if not _FIELD.match(line):
            return line
    return None if re.fullmatch(rb"[A-Za-z_-]{0,64}(?::.*)?", last, re.DOTALL) else last


@dataclass(slots=True)
class Usage:
    """Token counts as a server reported them; None where it did not, or where they cannot be true.

    `cached_tokens` are those of the prompt that were found in the server's prefix cache.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None

    def take(self, usage: object) -> None:
        """Take over the counts of a `usage` object, by OpenAI's names or Anthropic's."""
        if not isinstance(usage, dict):
            return
        prompt = _tokens(usage.get("prompt_tokens", usage.get("input_tokens")))
        output = _tokens(usage.get("completion_tokens", usage.get("output_tokens")))
        details = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
        cached = usage.get("cache_read_input_tokens")
        if isinstance(details, dict):
            cached = details.get("cached_tokens")
        self._set(prompt, output, _tokens(cached))

    def update(self, later: Usage) -> None:
        """Take over the counts that a later event told."""
        self._set(later.prompt_tokens, later.completion_tokens, later.cached_tokens)

    def _set(self, prompt: int | None, output: int | None, cached: int | None) -> None:
        if prompt is not None:
            self.prompt_tokens = prompt
        if output is not None:
            self.completion_tokens = output
        if cached is not None:
            self.cached_tokens = cached


def _tokens(value: object) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS
    return value if good and isinstance(value, int) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one event says. `has_output`: it brings output; an empty chunk is no token.

    `only_usage`: it holds token counts and no choice. `error` is what the server said of a failure.
    `response_id` is that of an answer of the Responses API, which a later request may go on from.
    """

    has_output: bool = False
    only_usage: bool = False
    finished: bool = False
    error: object = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)
    response_id: str | None = None


def read_chunk(data: bytes) -> Chunk:
    """Read the data of an event. Raises ValueError where it is neither a JSON object nor [DONE]."""
    if data.strip() == DONE:
        return Chunk(finished=True)
    try:
        document: Any = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return chunk_of(document)


def chunk_of(document: dict[str, Any]) -> Chunk:
    """Return what a parsed event, or a whole answer, says."""
    choices, kind, model = document.get("choices"), document.get("type"), document.get("model")
    return Chunk(
        has_output=_has_output(document, choices),
        only_usage=choices == [] and isinstance(document.get("usage"), dict),
        finished=kind in ("response.completed", "response.incomplete", "message_stop"),
        error=document.get("error") or (kind == "response.failed" or None),
        model=model if isinstance(model, str) else None,
        usage=usage_of(document),
        response_id=response_id_of(document),
    )


def usage_of(document: dict[str, Any]) -> Usage:
    """Return the counts that a parsed event, or a whole answer, tells."""
    usage = Usage()
    for holder in (document.get("message"), document.get("response"), document):
        if isinstance(holder, dict):
            usage.take(holder.get("usage"))
    return usage


def response_id_of(document: dict[str, Any]) -> str | None:
    """Return the id of an answer of the Responses API, None where it is another."""
    for holder in (document, document.get("response")):
        if isinstance(holder, dict) and holder.get("object") == "response":
            known = holder.get("id")
            return known if isinstance(known, str) else None
    return None


def _has_output(document: dict[str, Any], choices: object) -> bool:
    if isinstance(choices, list):
        return any(isinstance(choice, dict) and _brings(choice) for choice in choices)
    delta = document.get("delta")
    return bool(delta) if isinstance(delta, str) else isinstance(delta, dict) and _brings(delta)


def _brings(part: dict[str, Any]) -> bool:
    if any(isinstance(part.get(name), str) and part[name] for name in _TEXTS):
        return True
    if any(part.get(name) for name in _CALLS):
        return True
    delta = part.get("delta")
    return isinstance(delta, dict) and _brings(delta)
