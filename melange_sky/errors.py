"""The exception tree, each branch with the exit code that the command line returns for it.

    MelangeError                1   base: anything below becomes one clear line, never a traceback
    ├── InputError              2   wrong use or bad input: file, key, name, option, output folder
    ├── InfeasibleError         3   no plan exists for this input
    ├── SourceUnavailableError  4   prices or another network source could not be had
    ├── SloMissedError          5   a verification or profile ran and did not meet its SLO
    └── NoPlanInTimeError       6   no plan within the time limit, and none proven impossible

Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol


class MelangeError(Exception):
    """Base of all errors that the user sees as one line.

    The message says what is wrong, where (file, key, line) and what to do.
    """

    exit_code = 1


class InputError(MelangeError):
    """Wrong use or bad input. Holds every problem found, one line each."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems: tuple[str, ...] = problems
        super().__init__("\n".join(problems))


class Cause(Protocol):
    """One thing that stands against a plan: a constraint, or sizes that nothing serves."""

    @property
    def text(self) -> str:
        """The cause in words, without a verb of its own."""
        ...


class Conflict(Protocol):
    """Constraints that clash; see `melange_sky.optimizer.Conflict`."""

    @property
    def clauses(self) -> Sequence[Cause]:
        """The constraints."""
        ...

    @property
    def is_minimal(self) -> bool:
        """Whether without any one of them the rest would hold together."""
        ...


class InfeasibleError(MelangeError):
    """No plan satisfies the input; the message names what cannot be served and why.

    `causes` are the same as data, none where the message alone says it. `conflict` is there where
    constraints clash; its clauses are then the causes.
    """

    exit_code = 3

    def __init__(
        self, message: str, *, causes: Sequence[Cause] = (), conflict: Conflict | None = None
    ) -> None:
        self.conflict = conflict
        self.causes: tuple[Cause, ...] = tuple(causes if conflict is None else conflict.clauses)
        super().__init__(message)

    def naming(self, model: str) -> InfeasibleError:
        """Return the same error with the model in front of its message."""
        return InfeasibleError(f"{model}: {self}", causes=self.causes, conflict=self.conflict)

    def noting(self, notes: Sequence[str]) -> InfeasibleError:
        """Return the same error with notes behind its message."""
        text = "; note: ".join([str(self), *notes])
        return InfeasibleError(text, causes=self.causes, conflict=self.conflict)


class SourceUnavailableError(MelangeError):
    """A price or network source gave nothing usable."""

    exit_code = 4


class SloMissedError(MelangeError):
    """A verification or profile ran to its end and missed its SLO."""

    exit_code = 5


class NoPlanInTimeError(MelangeError):
    """No plan was found within the time limit, in seconds; none is proven impossible."""

    exit_code = 6

    def __init__(self, time_limit_s: float) -> None:
        self.time_limit_s = time_limit_s
        super().__init__(
            f"no plan was found within the time limit of {time_limit_s:g} s "
            "(none is proven impossible)"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known name, or an empty string.

    >>> did_you_mean("A10g", ["A10G", "H100"])
    " (did you mean 'A10G'?)"
    >>> did_you_mean("zzz", ["A10G"])
    ''
    """
    folded = {candidate.casefold(): candidate for candidate in known}
    import difflib  # only where something is misspelt

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
