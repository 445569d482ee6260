"""Functions that are made into machine code together."""

from __future__ import annotations

import ctypes
import threading
from types import FunctionType
from typing import Any

import numpy as np

from melange_sky.simulator.native.kinds import Kind, signature_of, slots_of
from melange_sky.simulator.native.slots import put, take

_LOCK = threading.Lock()

Ready = tuple[Any, tuple[Kind, ...], Kind]
"""A function's machine code, and the kinds of its arguments and of its result."""


class Entry:
    """One function of a program, to call from Python; it leaves the interpreter to other threads."""

    def __init__(self, program: Program, function: FunctionType) -> None:
        """Stand for `function`."""
        self.function = function
        self._program = program

    def __call__(self, *arguments: Any) -> Any:
        """Run the function's machine code."""
        run, parameters, result = self._program.ready(self.function)
        slots: list[int] = []
        kept: list[Any] = []
        for kind, argument in zip(parameters, arguments, strict=True):
            put(kind, argument, slots, kept)
        memory = np.array([*slots, *[0] * slots_of(result)], dtype=np.int64)
        run(memory.__array_interface__["data"][0])
        return take(result, memory[len(slots) :].tolist())


class Program:
    """Functions and all that they call, as one piece of machine code.

    It is made, or loaded as it was made before on this machine, on the first call.
    """

    def __init__(self, *functions: Any) -> None:
        """Take the functions that are to be called from Python."""
        self._functions: tuple[FunctionType, ...] = functions
        self._ready: dict[FunctionType, Ready] = {}
        self._engine: Any = None

    def entries(self) -> tuple[Entry, ...]:
        """Return the functions to call, in the order in which they were given."""
        return tuple(Entry(self, function) for function in self._functions)

    def ready(self, function: FunctionType) -> Ready:
        """Return a function's machine code and kinds."""
        if not self._ready:
            self.make()
        return self._ready[function]

    def make(self) -> None:
        """Have the machine code ready, if it is not yet."""
        with _LOCK:
            if not self._ready:
                self._engine = _engine(self._functions)
                self._ready = {function: self._found(function) for function in self._functions}

    def _found(self, function: FunctionType) -> Ready:
        address = self._engine.get_function_address(_entry_name(function))
        return (ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), *signature_of(function))


def _entry_name(function: FunctionType) -> str:
    return f"enter.{function.__module__}.{function.__qualname__}"


def _engine(functions: tuple[FunctionType, ...]) -> Any:
    """Return LLVM's engine with the functions' machine code, kept or new; what is new is kept."""
    from melange_sky.simulator.native import kept, machine

    key = kept.key_of(functions, machine.made_with())
    code = kept.read(key)
    if code is not None:
        return machine.loaded(code)
    from melange_sky.simulator.native.translation import translated

    engine, code = machine.made(translated(functions, _entry_name))
    kept.write(key, code)
    return engine
