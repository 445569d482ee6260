"""The answers that say no, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError

if TYPE_CHECKING:
    from melange_sky.optimizer.answers.conflict import Conflict


def conflict_error(conflict: Conflict) -> InfeasibleError:
    """Return the error that carries a conflict, and says it in one line."""
    return InfeasibleError(conflict_text(conflict), conflict=conflict)


def conflict_text(conflict: Conflict) -> str:
    """Return a conflict as one line, which claims no more than was seen in the time."""
    names = [clause.text for clause in conflict.clauses]
    if not names:
        return "no fleet serves the rate, even with every constraint left out"
    ways = ", or to ".join(help_.text for help_ in conflict.helps)
    helps = f"; it is enough to {ways}" if ways else ""
    alone = len(names) == 1
    if conflict.is_minimal:
        clash = "cannot hold while the rate is served" if alone else "cannot hold together"
        return f"{' and '.join(names)} {clash}{helps}"
    if alone:
        doubt = "there was no time to see whether there is one without it"
        return f"no fleet keeps to {names[0]} ({doubt}){helps}"
    doubt = "there was no time to find which of them clash"
    return f"no fleet keeps to all of {', '.join(names[:-1])} and {names[-1]} ({doubt}){helps}"
