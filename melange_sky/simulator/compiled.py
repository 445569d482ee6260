"""Compile the kernel's functions with numba; they stay plain Python where numba is switched off.

The compiled code is kept beside the source (numba's own cache), so that only the first run pays.
Every compiled function and all it calls live in one file, because that cache notices changes of a
function's own file only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Return `function` compiled on its first call; it leaves the interpreter to other threads."""
    result: Function = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return result
