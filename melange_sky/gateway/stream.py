"""Server-sent events on their way through: passed on at once, token counts read, ours taken out."""

from __future__ import annotations

import re

from melange_sky.streams import Usage, end_of_events, event_data, read_chunk, split_events

_TELLS = re.compile(rb'"(?:usage|error)"\s*:(?!\s*null)|"response\.failed"')
_MAY_TELL = re.compile(rb'"(?:usage|error|response\.failed)"')
_CONTENT = b'"content":"'
_OUTPUT = re.compile(
    rb'"(?:content|text|reasoning_content|reasoning|delta|arguments|thinking|partial_json)":\s*"[^"]'
)
_MOST_HELD = 256 * 1024


class EventStream:
    """Passes chunks of a stream on. With `hide_usage`, takes out the event that only tells counts.

    Whole events pass at once. The beginning of an event waits for its end, which no client could do
    without; where the ends cannot be found, or with `opaque` (a compressed stream), everything passes
    as it is. `failed` tells that the replica spoke of an error in mid-stream; `response_id` names what a later
    request may go on from.
    """

    __slots__ = ("_held", "_hide", "_opaque", "failed", "outputs", "response_id", "usage")

    def __init__(self, hide_usage: bool, *, opaque: bool = False) -> None:
        """Start a stream."""
        self.usage = Usage()
        self.outputs = 0
        self.failed = False
        self.response_id: str | None = None
        self._hide, self._opaque = hide_usage, opaque
        self._held = b""

    @property
    def holds(self) -> bool:
        """Whether the beginning of an event waits for its end."""
        return bool(self._held)

    def feed(self, chunk: bytes) -> bytes:
        """Return what is to be sent on for a chunk that came."""
        if self._opaque:
            return chunk
        if not self._held and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            return self._read(chunk)  # whole events, as most come
        data = self._held + chunk if self._held else chunk
        end = end_of_events(data, max(0, len(self._held) - 3) if self._held else 0)
        if end == 0:
            if len(data) > _MOST_HELD:
                self._opaque = True
                self._held = b""
                return data
            self._held = data
            return b""
        self._held = data[end:]
        return self._read(data[:end] if self._held else data)

    def end(self) -> bytes:
        """Return what is left at the end of the stream."""
        held, self._held = self._held, b""
        return self._read(held) if held else b""

    def _read(self, whole: bytes) -> bytes:
        """Read whole events; return them less what the client did not ask for."""
        at = whole.rfind(_CONTENT)
        if at >= 0 and whole.count(b"data:") == 1:  # as most are, and quick to tell
            self.outputs += not whole.startswith(b'"', at + len(_CONTENT))
        else:
            self.outputs += len(_OUTPUT.findall(whole))
        if not _MAY_TELL.search(whole):
            return whole
        events = split_events(whole)
        kept = [event for event in events if not self._take(event) or not self._hide]
        return whole if len(kept) == len(events) else b"".join(kept)

    def _take(self, event: bytes) -> bool:
        """Take counts and errors from an event; return whether it holds nothing but counts."""
        data = event_data(event) if _TELLS.search(event) else None
        if data is None:
            return False
        try:
            chunk = read_chunk(data)
        except ValueError:
            return False
        self.failed |= chunk.error is not None
        self.usage.update(chunk.usage)
        self.response_id = chunk.response_id or self.response_id
        return chunk.only_usage
