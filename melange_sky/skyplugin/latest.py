"""The newest answer of something slow, asked in a thread of its own, so that nobody waits longer than they said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T]):
    """What was answered last, how many seconds ago, and why nothing newer is there; None for what is not known."""

    value: T | None
    age_s: float | None
    error: str | None


class Latest(Generic[T]):
    """Asks `ask` at most once per `fresh_s`, one question at a time.

    A question that hangs keeps one thread and no caller: the last answer stands, with its age.
    """

    def __init__(
        self,
        ask: Callable[[], T],
        *,
        fresh_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._fresh_s, self._clock = ask, fresh_s, clock
        self._changed = threading.Condition()
        self._asking_since: float | None = None
        self._value: T | None = None
        self._answered: float | None = None
        self._tried: float | None = None
        self._error: str | None = None

    def get(self, wait_s: float) -> Answer[T]:
        """Return the newest answer, after at most `wait_s` seconds; it may be an old one, or none."""
        with self._changed:
            if self._is_due():
                self._asking_since = self._clock()
                threading.Thread(target=self._answer, name="melange-records", daemon=True).start()
            self._changed.wait_for(lambda: self._asking_since is None, timeout=wait_s)
            now, error = self._clock(), self._error
            if self._asking_since is not None:
                error = f"no answer for {now - self._asking_since:.0f} s"
            age_s = None if self._answered is None else now - self._answered
            return Answer(value=self._value, age_s=age_s, error=error)

    def _is_due(self) -> bool:
        if self._asking_since is not None:
            return False
        return self._tried is None or self._clock() - self._tried >= self._fresh_s

    def _answer(self) -> None:
        value, error = None, None
        try:
            value = self._ask()
        except Exception as problem:  # noqa: BLE001 - whatever SkyPilot has met is said on the page
            error = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        with self._changed:
            self._tried, self._error, self._asking_since = self._clock(), error, None
            if error is None:
                self._value, self._answered = value, self._tried
            self._changed.notify_all()
