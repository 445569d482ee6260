"""Ctrl-C during work that has no result yet: compiled loops do not hear of it, so they run aside."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

Result = TypeVar("Result")
_INTERRUPTED = 130


def interruptible(work: Callable[[], Result]) -> Result:
    """Run work in a thread and wait for it, so that Ctrl-C is heard at once. Hands on what it raises."""
    ended: dict[str, Any] = {}
    done = threading.Event()

    def run() -> None:
        try:
            ended["result"] = work()
        except BaseException as error:  # noqa: BLE001 -- raised again where it is waited for
            ended["error"] = error
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    done.wait()
    if "error" in ended:
        raise ended["error"]
    result: Result = ended["result"]
    return result


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """End the process on Ctrl-C without waiting for threads that are at work."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_INTERRUPTED)
