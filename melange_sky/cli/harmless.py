"""What the program prints, without characters that a terminal would obey or that reorder a line.

Names of catalogs, plans, traces and servers reach the terminal by many ways; here all of them end.
"""

from __future__ import annotations

import contextlib
import re
import sys
import unicodedata
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

_COLOUR = r"\x1b\[(?:[0-9]|[39][0-7]|[34]8;5;[0-9]{1,3})m"
"""The colours that tables are drawn with."""
_ODD = re.compile(rf"{_COLOUR}|\r\n|[^\n\t\x20-\x7e]")


def harmless(text: str) -> str:
    r"""Return text with what is no letter, mark or space written as its code.

    >>> print(harmless("g5\x1b[2J.xlarge in us\u202e, 3 × L4"))
    g5\x1b[2J.xlarge in us\u202e, 3 × L4
    """
    return _ODD.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    text = found.group()
    if len(text) > 1 or text.isprintable() or unicodedata.category(text) == "Zs":
        return text
    return text.encode("unicode_escape").decode("ascii")


def bar_stream() -> IO[str]:
    """Return standard error for a bar, which moves the cursor itself."""
    return cast("IO[str]", getattr(sys.stderr, "unfiltered", sys.stderr))


class HarmlessStream:
    """A text stream that writes harmless text to another, and is that one in all else."""

    def __init__(self, stream: IO[str]) -> None:
        """Write to `stream`."""
        self.unfiltered = stream

    def write(self, text: str) -> int:
        """Write text; returns its length."""
        self.unfiltered.write(harmless(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unfiltered, name)


@contextlib.contextmanager
def harmless_output() -> Iterator[None]:
    """Let both standard streams write harmless text."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        None if stream is None else cast("IO[str]", HarmlessStream(stream)) for stream in streams
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
