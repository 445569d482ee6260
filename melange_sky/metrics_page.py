"""A server's Prometheus page, as far as names on it are known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SAMPLE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples(page: str, names: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    """Yield what a page says of the names on it that `names` maps to short ones: (short name, value).

    Every engine and label set of a server has a sample of its own.

    >>> list(samples('a{engine="0"} 2.0\\na{engine="1"} 3 1700000000\\nb 1', {"a": "asked"}))
    [('asked', 2.0), ('asked', 3.0)]
    """
    for short, _, value in labelled(page, names):
        yield short, value


def labelled(page: str, names: Mapping[str, str]) -> Iterator[tuple[str, str, float]]:
    """Yield the same samples with the text of their labels between: (short name, labels, value)."""
    for match in _SAMPLE.finditer(page):
        short = names.get(match[1])
        if short is None:
            continue
        try:
            yield short, match[2] or "", float(match[3])
        except ValueError:
            continue


def labels_of(text: str) -> dict[str, str]:
    """Return labels by name.

    >>> labels_of('engine="0",le="+Inf"')
    {'engine': '0', 'le': '+Inf'}
    """
    return dict(_LABEL.findall(text))
