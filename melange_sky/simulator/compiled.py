"""Compile the kernel's functions with numba; they stay plain Python where numba is switched off.

The compiled code is kept beside the source, so that only the first run pays. numba itself notices
changes of a function's own file only, and would go on with old code of the functions and constants
that it takes from other files. So each content of all these files has a folder of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., object])

PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = ("simulator", "routing")
"""Where compiled functions are, and all that they call or take constants from."""


def compiled(function: Function) -> Function:
    """Return `function` compiled on its first call; it leaves the interpreter to other threads."""
    with _kept_in(cache_folder(PACKAGE)):
        result: Function = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return result


@cache
def cache_folder(package: Path) -> Path:
    """Return the folder for the compiled code of a package's present content."""
    digest = hashlib.sha256()
    for source in sorted(path for name in FOLDERS for path in (package / name).glob("*.py")):
        digest.update(f"{source.relative_to(package)}\n".encode())
        digest.update(source.read_bytes())
    own = numba.config.CACHE_DIR or package / "simulator" / "__pycache__"
    return Path(own) / f"compiled-{digest.hexdigest()[:16]}"


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Let numba keep what is compiled here in a folder; where it cannot write there, it has others."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before
