"""Nobody waits longer than they said for SkyServe's records."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from melange_sky.skyplugin.latest import Latest


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds questions back until it is set; set at the end, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def test_an_answer_is_asked_for_once_while_it_is_fresh() -> None:
    clock, asked = Clock(), []
    latest = Latest(lambda: asked.append(1) or len(asked), fresh_s=5, clock=clock)
    assert latest.get(10).value == 1
    clock.now = 4.9
    again = latest.get(10)
    assert (again.value, again.age_s, again.error) == (1, 4.9, None)
    clock.now = 5.0
    assert latest.get(10).value == 2


def test_a_question_that_hangs_keeps_nobody_and_is_not_asked_twice(gate: threading.Event) -> None:
    clock, asked = Clock(), []

    def ask() -> int:
        asked.append(1)
        if len(asked) > 1:
            gate.wait(30)
        return len(asked)

    latest = Latest(ask, fresh_s=5, clock=clock)
    assert latest.get(10).value == 1
    clock.now = 7.0
    start = time.monotonic()
    late = latest.get(0.05)
    assert time.monotonic() - start < 5
    assert (late.value, late.age_s) == (1, 7.0)
    clock.now = 20.0
    assert latest.get(0.05).error == "no answer for 13 s"
    assert len(asked) == 2


def test_a_fault_is_told_and_the_last_answer_stands() -> None:
    clock, outcomes = Clock(), iter([1, ValueError("the table\nis locked"), 3])

    def ask() -> int:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    latest = Latest(ask, fresh_s=5, clock=clock)
    latest.get(10)
    clock.now = 6.0
    failed = latest.get(10)
    assert (failed.value, failed.error) == (1, "ValueError: the table is locked")
    clock.now = 12.0
    assert latest.get(10).value == 3 and latest.get(10).error is None


def test_nothing_is_known_before_the_first_answer(gate: threading.Event) -> None:
    found = Latest(lambda: gate.wait(30), fresh_s=5).get(0.05)
    assert (found.value, found.age_s) == (None, None) and found.error is not None
