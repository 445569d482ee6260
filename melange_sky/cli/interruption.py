"""Ctrl-C during work that has no result yet: compiled loops do not hear of it, so they run aside."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import click

Result = TypeVar("Result")
_INTERRUPTED = 130


def interruptible(work: Callable[[], Result]) -> Result:
    """Run work in a thread and wait for it, so that Ctrl-C is heard at once. Hands on what it raises."""
    # No `with`: leaving it would wait for work that was interrupted.
    return ThreadPoolExecutor(max_workers=1).submit(work).result()


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
