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
        return "no fleet serves the rate, even without any constraint"
    ways = ", or ".join(help_.text for help_ in conflict.helps)
    helps = f"; to make it possible, {ways}" if ways else ""
    alone = len(names) == 1
    if conflict.is_minimal:
        clash = "cannot be met at this rate" if alone else "cannot be met together"
        return f"{' and '.join(names)} {clash}{helps}"
    if alone:
        doubt = "no time was left to check whether one exists without it"
        return f"no fleet meets {names[0]} ({doubt}){helps}"
    doubt = "no time was left to find which of them conflict"
    return f"no fleet meets all of these: {', '.join(names[:-1])} and {names[-1]} ({doubt}){helps}"
