"""Machine code kept on disk by what it was made of, so that a machine makes each program once.

A file that was cut short or changed is no code: it is made again, and so it is where nothing can be kept. What
others may write is never run: the folder and the file must belong to this user, who alone may write them.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FunctionType, ModuleType

from melange_sky.settings import machine_code_dir
from melange_sky.simulator.native.kinds import signature_of

_MARK = b"melange-sky machine code 1\n"
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # not on Windows
MOST_FILES = 64
"""Files that are kept, the latest: each release and each kind of processor makes its own."""


def key_of(functions: Sequence[FunctionType], made_with: Sequence[str]) -> str:
    """Return a hash of all that decides the machine code of these functions and of what they call."""
    known = hashlib.sha256(_MARK)
    own = sorted(Path(__file__).parent.glob("*.py"))
    translator = (path.read_text(encoding="utf-8") for path in own)
    for part in (*made_with, *translator, *_said_by(functions)):
        known.update(part.encode())
        known.update(b"\0")
    return known.hexdigest()


def _said_by(functions: Sequence[FunctionType]) -> Iterator[str]:
    """Yield what translated functions are made of: names, kinds and constants, and the sources of their modules."""
    left, seen = list(functions), set(functions)
    modules: set[str] = set()
    while left:
        function = left.pop()
        yield f"{function.__module__}.{function.__qualname__} {signature_of(function)!r}"
        if function.__module__ not in modules:
            modules.add(function.__module__)
            yield inspect.getsource(sys.modules[function.__module__])
        for name, value in _named(function):
            if not isinstance(value, FunctionType):
                yield f"{name} = {value!r}"
            elif value not in seen:
                seen.add(value)
                left.append(value)


def _named(function: FunctionType) -> Iterator[tuple[str, FunctionType | bool | int | float]]:
    """Yield the functions and numbers that a function names, those of modules that it names too."""
    names = function.__code__.co_names
    scope = {name: function.__globals__[name] for name in names if name in function.__globals__}
    modules = [value for value in scope.values() if isinstance(value, ModuleType)]
    for space in (scope, *({n: vars(m)[n] for n in names if n in vars(m)} for m in modules)):
        for name, value in space.items():
            if isinstance(value, FunctionType | bool | int | float):
                yield name, value


def read(key: str) -> bytes | None:
    """Return the machine code that is kept under a key, None where there is none that may be run."""
    path = machine_code_dir() / f"{key}.o"
    try:
        if not _is_ours(path.parent.lstat(), stat.S_ISDIR):
            return None
        with os.fdopen(os.open(path, os.O_RDONLY | _NO_LINK), "rb") as file:
            if not _is_ours(os.fstat(file.fileno()), stat.S_ISREG):
                return None
            content = file.read()
    except OSError:
        return None
    code = content[len(_MARK) + 32 :]
    return code if content == _sealed(code) else None


def write(key: str, code: bytes) -> None:
    """Keep machine code, whole or not at all, where this user alone may write. Failure is no error."""
    folder = machine_code_dir()
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours(folder.lstat(), stat.S_ISDIR):
            return
        handle, beside = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_sealed(code))
            Path(beside).replace(folder / f"{key}.o")
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
        _drop_oldest(folder)


def _sealed(code: bytes) -> bytes:
    return _MARK + hashlib.sha256(code).digest() + code


def _drop_oldest(folder: Path) -> None:
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[MOST_FILES:]:
        path.unlink(missing_ok=True)


def _is_ours(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Return whether a file or folder is this user's, and nobody else may write it; never on Windows."""
    user = getattr(os, "geteuid", None)
    others = stat.S_IWGRP | stat.S_IWOTH
    return (
        user is not None
        and is_kind(found.st_mode)
        and found.st_uid == user()
        and not found.st_mode & others
    )
