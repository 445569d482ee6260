"""A last look at a model's name, offline: it states a size that may contradict what was read."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d{1,4}(?:\.\d{1,2})?)[bB](?![A-Za-z0-9])")
_OTHER = re.compile(r"\d+x\d|(?<![A-Za-z0-9])\d+E(?![A-Za-z0-9])", re.IGNORECASE)
_KIND = re.compile(r"embed|rerank|reward", re.IGNORECASE)
_KINDS = {"embed": "an embedding model", "rerank": "a reranker", "reward": "a reward model"}
FAR = 0.2
"""How far a name's size may lie from the parameters before it is worth a word."""


def size_in_name(name: str) -> float | None:
    """Return the parameters that a name states, None where it states none or something else.

    Names such as 8x7B count experts and those such as 17B-16E active parameters: neither is a total.

    >>> size_in_name("Qwen/Qwen3-30B-A3B"), size_in_name("mistralai/Mixtral-8x7B-v0.1")
    (30000000000.0, None)
    """
    short = name.rpartition("/")[2]
    if _OTHER.search(short):
        return None
    found = _SIZE.findall(short)
    return float(found[0]) * 1e9 if len(found) == 1 else None


def name_warning(name: str, parameters: int) -> str | None:
    """Return a warning where a name states another size than was read."""
    stated = size_in_name(name)
    if stated is None or stated <= 0 or abs(parameters / stated - 1.0) <= FAR:
        return None
    return f"its name says {stated / 1e9:g} B parameters, its config {parameters / 1e9:.1f} B"


def kind_warning(name: str) -> str | None:
    """Return a warning where a name says that a decoder is used for something else than writing text.

    >>> kind_warning("Qwen/Qwen3-Reranker-8B")
    'its name says that it is a reranker: planned as a model that writes text'
    """
    found = _KIND.search(name.rpartition("/")[2])
    if found is None:
        return None
    return (
        f"its name says that it is {_KINDS[found[0].lower()]}: planned as a model that writes text"
    )
