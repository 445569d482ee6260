"""The exception tree, each branch with the exit code that the command line returns for it.

    MelangeError                1   base: anything below becomes one clear line, never a traceback
    ├── InputError              2   wrong use or bad input: file, key, name, option, output folder
    ├── InfeasibleError         3   no plan exists for this input
    ├── SourceUnavailableError  4   prices or another network source could not be had
    └── SloMissedError          5   a verification or profile ran and did not meet its SLO

Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class MelangeError(Exception):
    """Base of all errors that are told to the user as one line.

    The message says what is wrong, where (file, key, line) and what to do.
    """

    exit_code = 1


class InputError(MelangeError):
    """Wrong use or bad input. Holds every problem found, one line each."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems: tuple[str, ...] = problems
        super().__init__("\n".join(problems))


class InfeasibleError(MelangeError):
    """No plan satisfies the input; the message names what cannot be served and why."""

    exit_code = 3


class SourceUnavailableError(MelangeError):
    """A price or network source gave nothing usable."""

    exit_code = 4


class SloMissedError(MelangeError):
    """A verification or profile ran to its end and missed its SLO."""

    exit_code = 5


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known name, or an empty string.

    >>> did_you_mean("A10g", ["A10G", "H100"])
    " (did you mean 'A10G'?)"
    >>> did_you_mean("zzz", ["A10G"])
    ''
    """
    folded = {candidate.casefold(): candidate for candidate in known}
    near: Sequence[str] = difflib.get_close_matches(
        name[:200].casefold(), list(folded), n=1, cutoff=0.6
    )
    return f" (did you mean '{folded[near[0]]}'?)" if near else ""


def clip(text: str, length: int = 60) -> str:
    """Return `text` in one line of bounded length, for a message.

    >>> clip("a" * 100, 5), clip("x\\ny")
    ('aaaaa…', 'x?y')
    """
    shown = "".join(c if c.isprintable() else "?" for c in text[:length])
    return shown + "…" if len(text) > length else shown
