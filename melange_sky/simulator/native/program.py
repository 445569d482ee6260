"""Functions that are translated and made into machine code together."""

from __future__ import annotations

import ast
import ctypes
import inspect
import sys
import threading
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import binding, ir

from melange_sky.simulator.native.expressions import Expressions
from melange_sky.simulator.native.kinds import (
    I64,
    POINTER,
    Scalar,
    Several,
    TranslationError,
    annotated,
    ir_type,
    slots_of,
)
from melange_sky.simulator.native.slots import put, take
from melange_sky.simulator.native.statements import Body
from melange_sky.simulator.native.values import Signature, Value

_LOCK = threading.Lock()


class Entry:
    """One function of a program, to call from Python; it leaves the interpreter to other threads."""

    def __init__(self, program: Program, function: FunctionType) -> None:
        """Stand for `function`."""
        self.function = function
        self._program = program

    def __call__(self, *arguments: Any) -> Any:
        """Run the function's machine code."""
        run, signature = self._program.ready(self.function)
        slots: list[int] = []
        kept: list[Any] = []
        for kind, argument in zip(signature.parameters, arguments, strict=True):
            put(kind, argument, slots, kept)
        memory = np.array([*slots, *[0] * slots_of(signature.result)], dtype=np.int64)
        run(memory.__array_interface__["data"][0])
        return take(signature.result, memory[len(slots) :].tolist())


class Program:
    """Functions and all that they call, as one piece of machine code, made on the first call."""

    def __init__(self, *functions: Any) -> None:
        """Take the functions that are to be called from Python."""
        self._functions: tuple[FunctionType, ...] = functions
        self._ready: dict[FunctionType, tuple[Any, Signature]] = {}
        self._engine: Any = None

    def entries(self) -> tuple[Entry, ...]:
        """Return the functions to call, in the order in which they were given."""
        return tuple(Entry(self, function) for function in self._functions)

    def ready(self, function: FunctionType) -> tuple[Any, Signature]:
        """Return a function's machine code and signature."""
        if not self._ready:
            self.make()
        return self._ready[function]

    def make(self) -> None:
        """Make the machine code, if it is not made yet."""
        with _LOCK:
            if not self._ready:
                self._ready = self._made()

    def _made(self) -> dict[FunctionType, tuple[Any, Signature]]:
        translation = Translation()
        for function in self._functions:
            translation.enter(function)
        translation.finish()
        self._engine = _machine_code(translation.module)
        found = {}
        for function in self._functions:
            address = self._engine.get_function_address(_entry_name(function))
            run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
            found[function] = (run, translation.signature(function))
        return found


def _entry_name(function: FunctionType) -> str:
    return f"enter.{function.__module__}.{function.__qualname__}"


class Translation:
    """One module of LLVM's language: every function that is called from one that was entered."""

    def __init__(self) -> None:
        """Begin with none."""
        self.module = ir.Module(name="melange_sky", context=ir.Context())
        self._signatures: dict[FunctionType, Signature] = {}
        self._open: list[FunctionType] = []

    def signature(self, function: FunctionType) -> Signature:
        """Return a function's signature and see to it that its body is translated."""
        if function not in self._signatures:
            parsed = _parsed(function)
            scope = function.__globals__
            parameters = tuple(annotated(a.annotation, scope) for a in parsed.args.args)
            result = annotated(parsed.returns, scope)
            kind = ir.FunctionType(ir_type(result), [ir_type(p) for p in parameters])
            name = f"{function.__module__}.{function.__qualname__}"
            made = ir.Function(self.module, kind, name)
            made.linkage = "internal"
            self._signatures[function] = Signature(made, parameters, result)
            self._open.append(function)
        return self._signatures[function]

    def enter(self, function: FunctionType) -> None:
        """Make a function that takes its arguments from memory, and leaves its result behind them."""
        signature = self.signature(function)
        kind = ir.FunctionType(ir.VoidType(), [POINTER])
        outer = ir.Function(self.module, kind, _entry_name(function))
        builder = ir.IRBuilder(outer.append_basic_block())
        reader, at = Expressions(self, function, builder), 0
        arguments = []
        for parameter in signature.parameters:
            arguments.append(reader.from_slots(outer.args[0], parameter, at))
            at += slots_of(parameter)
        result = Value(signature.result, builder.call(signature.ir, arguments))
        _leave(builder, result, outer.args[0], at)
        builder.ret_void()

    def finish(self) -> None:
        """Translate the bodies of all functions that are called."""
        while self._open:
            function = self._open.pop()
            signature = self._signatures[function]
            builder = ir.IRBuilder(signature.ir.append_basic_block("names"))
            start = signature.ir.append_basic_block("start")
            builder.position_at_end(start)
            Body(self, function, _parsed(function), signature, builder)
            with builder.goto_block(signature.ir.entry_basic_block):
                builder.branch(start)


def _leave(builder: Any, value: Value, memory: Any, at: int) -> None:
    """Store a result in slots."""
    if isinstance(value.kind, Several):
        for index, kind in enumerate(value.kind.kinds):
            _leave(builder, Value(kind, builder.extract_value(value.ir, index)), memory, at + index)
    elif value.kind is not Scalar.NOTHING:
        whole = builder.zext(value.ir, I64) if value.kind is Scalar.TRUTH else value.ir
        builder.store(whole, builder.gep(memory, [I64(at)], source_etype=I64))


def _parsed(function: FunctionType) -> ast.FunctionDef:
    found = _functions_of(function.__module__).get(function.__name__)
    if found is None or function.__closure__:
        raise TranslationError(f"{function.__qualname__} is no function of its module")
    return found


@cache
def _functions_of(module: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _machine_code(module: ir.Module) -> Any:
    """Return LLVM's engine with a module's machine code for this processor."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    host = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=2
    )
    module.triple = binding.get_default_triple()
    module.data_layout = str(host.target_data)
    made = binding.parse_assembly(str(module))
    made.verify()
    tuning = binding.create_pipeline_tuning_options(speed_level=1)
    passes = binding.create_pass_builder(host, tuning)
    passes.getModulePassManager().run(made, passes)
    engine = binding.create_mcjit_compiler(made, host)
    engine.finalize_object()
    return engine
