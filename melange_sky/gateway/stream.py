"""Server-sent events on their way through: passed on at once, token counts read, ours taken out."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_ERROR = b'data: {"error"'
_MOST_HELD = 256 * 1024


@dataclass(slots=True)
class Usage:
    """Token counts as the replica reported them; None where it did not."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def read(self, text: bytes) -> bool:
        """Take counts from a JSON document that may have `usage`; return whether it holds nothing else."""
        try:
            document = json.loads(text)
        except ValueError:
            return False
        if not isinstance(document, dict):
            return False
        usage = document.get("usage")
        if not isinstance(usage, dict):
            return False
        self.prompt_tokens = _tokens(usage.get("prompt_tokens"), self.prompt_tokens)
        self.completion_tokens = _tokens(usage.get("completion_tokens"), self.completion_tokens)
        return document.get("choices") == []


def _tokens(value: object, otherwise: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


class EventStream:
    """Passes chunks of a stream on. With `hide_usage`, takes out the event that only tells counts.

    Whole events pass at once. The beginning of an event waits for its end, which no client could do
    without; where the ends cannot be found, everything passes as it is. `failed` tells that the replica
    spoke of an error in mid-stream.
    """

    __slots__ = ("_held", "_hide", "events", "failed", "usage")

    def __init__(self, hide_usage: bool) -> None:
        """Start a stream."""
        self.usage = Usage()
        self.events = 0
        self.failed = False
        self._hide = hide_usage
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what is to be sent on for a chunk that came."""
        self.events += chunk.count(b"data:")
        if _ERROR in chunk:
            self.failed = True
        if not self._hide:
            if _USAGE.search(chunk):
                self._read_all(chunk)
            return chunk
        data = self._held + chunk if self._held else chunk
        end = data.rfind(b"\n\n") + 2
        if end == 1:
            if b"\r\n\r\n" in data or len(data) > _MOST_HELD:
                self._hide = False
                self._held = b""
                return data
            self._held = data
            return b""
        self._held = data[end:]
        whole = data[:end] if self._held else data
        return self._without_usage(whole) if _USAGE.search(whole) else whole

    def end(self) -> bytes:
        """Return what is left at the end of the stream."""
        held, self._held = self._held, b""
        return held

    def _without_usage(self, events: bytes) -> bytes:
        kept = [event for event in events.split(b"\n\n")[:-1] if not self._only_usage(event)]
        return b"".join(event + b"\n\n" for event in kept)

    def _only_usage(self, event: bytes) -> bool:
        return event.startswith(b"data:") and self.usage.read(event[5:])

    def _read_all(self, chunk: bytes) -> None:
        for line in chunk.split(b"\n"):
            if line.startswith(b"data:") and _USAGE.search(line):
                self.usage.read(line[5:])
