"""Solves that stand beside the plan: in threads where they take long, else one after the other."""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    from melange_sky.optimizer import Solution, SolveOptions

    P = ParamSpec("P")
    T = TypeVar("T")

SOON_S, AMPLE_S = 0.2, 5.0
"""Where the plan was solved in less than the first and the second is left, none beside it wants for time.

HiGHS leaves Python alone while it works, but in solves so short there is little of that: threads would wait for
each other's turn at Python, and take longer together than one after the other.
"""


def side_pool(solution: Solution, solve: SolveOptions, workers: int) -> Executor:
    """Return what runs the solves beside a plan: so many threads at most, none where all end soon."""
    if solution.report.solve_seconds < SOON_S and solve.deadline.left_s > AMPLE_S:
        return InTurn()
    return ThreadPoolExecutor(max_workers=workers)


class InTurn(Executor):
    """Runs what is submitted at once, in the thread that submits it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return the future of a call that has ended."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - whoever asks for the result is told
            future.set_exception(error)
        return future
