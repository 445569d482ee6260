"""Results through a job's log: framed, checksummed lines that survive prefixes and colours.

    MELANGE-RESULT/1 <sha256, 16 hex> <part>/<parts> <base64 of zlib>

A log needs no bucket and no credentials and is still there when the machine is gone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Iterator

_LINE = re.compile(r"MELANGE-RESULT/1 ([0-9a-f]{16}) (\d{1,6})/(\d{1,6}) ([A-Za-z0-9+/=]+)")
_PART = 1000
_MOST_BYTES = 64 * 1024 * 1024


def frame(content: bytes) -> Iterator[str]:
    """Yield the lines that carry `content`."""
    packed = zlib.compress(content, 9)
    digest = hashlib.sha256(packed).hexdigest()[:16]
    text = base64.b64encode(packed).decode("ascii")
    parts = [text[i : i + _PART] for i in range(0, len(text), _PART)]
    for index, part in enumerate(parts, start=1):
        yield f"MELANGE-RESULT/1 {digest} {index}/{len(parts)} {part}"


def unframe(log: str) -> list[bytes]:
    """Return every content that a log carries whole, in order of first sight.

    Repeated lines are taken once; damaged or incomplete contents are left out.
    """
    found: dict[tuple[str, int], dict[int, str]] = {}
    for digest, index, parts, text in _LINE.findall(log):
        found.setdefault((digest, int(parts)), {})[int(index)] = text
    contents = []
    for (digest, count), parts_seen in found.items():
        if set(parts_seen) != set(range(1, count + 1)):
            continue
        content = _unpack("".join(parts_seen[i] for i in range(1, count + 1)), digest)
        if content is not None:
            contents.append(content)
    return contents


def _unpack(text: str, digest: str) -> bytes | None:
    try:
        packed = base64.b64decode(text, validate=True)
        if hashlib.sha256(packed).hexdigest()[:16] != digest:
            return None
        inflate = zlib.decompressobj()
        content = inflate.decompress(packed, _MOST_BYTES)
    except (binascii.Error, ValueError, zlib.error):
        return None
    return content if inflate.eof else None
