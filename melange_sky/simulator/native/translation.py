"""Functions as one module of LLVM's language; imported only where machine code is made."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Sequence
from functools import cache
from types import FunctionType
from typing import Any

from llvmlite import ir

from melange_sky.simulator.native.expressions import Expressions
from melange_sky.simulator.native.kinds import (
    Scalar,
    Several,
    TranslationError,
    signature_of,
    slots_of,
)
from melange_sky.simulator.native.llvm_types import I64, POINTER, ir_type
from melange_sky.simulator.native.statements import Body
from melange_sky.simulator.native.values import Signature, Value


def translated(functions: Sequence[FunctionType], entry_name: Any) -> str:
    """Return the module's text: these functions, callable by their `entry_name`, and all that they call.

    Raises TranslationError, with its place, for what cannot be translated.
    """
    translation = Translation()
    for function in functions:
        translation.enter(function, entry_name(function))
    translation.finish()
    return str(translation.module)


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
            _parsed(function)
            parameters, result = signature_of(function)
            kind = ir.FunctionType(ir_type(result), [ir_type(p) for p in parameters])
            name = f"{function.__module__}.{function.__qualname__}"
            made = ir.Function(self.module, kind, name)
            made.linkage = "internal"
            self._signatures[function] = Signature(made, parameters, result)
            self._open.append(function)
        return self._signatures[function]

    def enter(self, function: FunctionType, name: str) -> None:
        """Make a function that takes its arguments from memory, and leaves its result behind them."""
        signature = self.signature(function)
        kind = ir.FunctionType(ir.VoidType(), [POINTER])
        outer = ir.Function(self.module, kind, name)
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
