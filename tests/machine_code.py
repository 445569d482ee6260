"""The simulator's machine code, made once for all tests: one machine keeps it by content for its user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

_STORE: list[Path] = []


@contextlib.contextmanager
def shared(folder: Path) -> Iterator[None]:
    """Keep in this folder what `lent` homes make."""
    folder.mkdir(exist_ok=True)
    _STORE.append(folder)
    try:
        yield
    finally:
        _STORE.remove(folder)


@contextlib.contextmanager
def lent(home: Path) -> Iterator[None]:
    """Let a home (MELANGE_SKY_HOME) hold what was made so far; what is made in it is there for the next."""
    (store,) = _STORE
    code = home / "code"
    if files := list(store.glob("*.o")):
        code.mkdir(mode=0o700, parents=True, exist_ok=True)
        _link(files, code)
    try:
        yield
    finally:
        _link(code.glob("*.o"), store)


def _link(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            (folder / file.name).hardlink_to(file)
