"""Running a coroutine from code that knows nothing of loops."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


def run_coroutine(make: Callable[[], Coroutine[object, object, T]]) -> T:
    """Run a coroutine to its end, also where the caller's thread already runs a loop (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    outcome: list[T] = []
    problem: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(asyncio.run(make()))
        except BaseException as error:  # noqa: BLE001 - handed over to the caller's thread
            problem.append(error)

    thread = threading.Thread(target=work, name="melange-refresh")
    thread.start()
    thread.join()
    if problem:
        raise problem[0]
    return outcome[0]
