"""Spellings compared: case aside, or punctuation aside too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def fold(name: str) -> str:
    """Return the name in lower case without punctuation.

    >>> fold("RTX-PRO-6000"), fold("RTX PRO 6000 96GB")
    ('rtxpro6000', 'rtxpro600096gb')
    """
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def same_name(text: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `text` spells, case aside, or None.

    >>> same_name("l40s", ("L4", "L40S")), same_name("l40-s", ("L4", "L40S"))
    ('L40S', None)
    """
    folded = text.casefold()
    return next((name for name in names if name.casefold() == folded), None)
