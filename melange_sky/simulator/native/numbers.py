"""Arithmetic as the interpreter does it, in LLVM's instructions."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from melange_sky.simulator.native.kinds import Scalar
from melange_sky.simulator.native.llvm_types import F64, I64


def floor_divide(builder: Any, left: Any, right: Any) -> Any:
    """Divide towards −∞; 0 where the divisor is 0."""
    nothing, divisor = _safe(builder, right)
    rest = builder.srem(left, divisor)
    less = builder.zext(_is_off(builder, rest, divisor), I64)
    return builder.select(nothing, I64(0), builder.sub(builder.sdiv(left, divisor), less))


def modulo(builder: Any, left: Any, right: Any) -> Any:
    """Return the rest of that division, which has the divisor's sign."""
    nothing, divisor = _safe(builder, right)
    rest = builder.srem(left, divisor)
    moved = builder.select(_is_off(builder, rest, divisor), builder.add(rest, divisor), rest)
    return builder.select(nothing, I64(0), moved)


def _safe(builder: Any, divisor: Any) -> tuple[Any, Any]:
    nothing = builder.icmp_signed("==", divisor, I64(0))
    return nothing, builder.select(nothing, I64(1), divisor)


def _is_off(builder: Any, rest: Any, divisor: Any) -> Any:
    """Whether the processor's rest, which has the dividend's sign, is not the interpreter's."""
    signs_differ = builder.icmp_signed("<", builder.xor(rest, divisor), I64(0))
    return builder.and_(builder.icmp_signed("!=", rest, I64(0)), signs_differ)


Operation = Callable[[Any, Any, Any], Any]

WHOLE: dict[type[ast.operator], Operation] = {
    ast.Add: lambda b, x, y: b.add(x, y),
    ast.Sub: lambda b, x, y: b.sub(x, y),
    ast.Mult: lambda b, x, y: b.mul(x, y),
    ast.FloorDiv: floor_divide,
    ast.Mod: modulo,
    ast.LShift: lambda b, x, y: b.shl(x, y),
    ast.RShift: lambda b, x, y: b.ashr(x, y),
    ast.BitAnd: lambda b, x, y: b.and_(x, y),
    ast.BitXor: lambda b, x, y: b.xor(x, y),
}
FLOAT: dict[type[ast.operator], Operation] = {
    ast.Add: lambda b, x, y: b.fadd(x, y),
    ast.Sub: lambda b, x, y: b.fsub(x, y),
    ast.Mult: lambda b, x, y: b.fmul(x, y),
    ast.Div: lambda b, x, y: b.fdiv(x, y),
}

COMPARED: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


def compare(builder: Any, sign: str, left: Any, right: Any) -> Any:
    """Compare two numbers of one kind; NaN equals nothing."""
    if left.type != F64:
        return builder.icmp_signed(sign, left, right)
    if sign == "!=":
        return builder.fcmp_unordered(sign, left, right)
    return builder.fcmp_ordered(sign, left, right)


def extreme(builder: Any, sign: str, values: Sequence[Any]) -> Any:
    """Return the first of the least (`<`) or greatest (`>`) values."""
    best = values[0]
    for value in values[1:]:
        best = builder.select(compare(builder, sign, value, best), value, best)
    return best


def as_whole(builder: Any, value: Any) -> Any:
    """Return a number towards 0, or a truth value as 0 or 1."""
    if value.type == F64:
        return builder.fptosi(value, I64)
    return value if value.type == I64 else builder.zext(value, I64)


def _intrinsic(builder: Any, name: str, value: Any) -> Any:
    function = builder.module.declare_intrinsic(name, [F64])
    return builder.call(function, [value])


def _is_infinite(builder: Any, value: Any) -> Any:
    size = _intrinsic(builder, "llvm.fabs", value)
    return builder.fcmp_ordered("==", size, ir.Constant(F64, math.inf))


OF_FLOATS: dict[Any, tuple[Scalar, Callable[[Any, Any], Any]]] = {
    math.sqrt: (Scalar.FLOAT, lambda b, x: _intrinsic(b, "llvm.sqrt", x)),
    abs: (Scalar.FLOAT, lambda b, x: _intrinsic(b, "llvm.fabs", x)),
    math.isnan: (Scalar.TRUTH, lambda b, x: b.fcmp_unordered("uno", x, x)),
    math.isinf: (Scalar.TRUTH, _is_infinite),
}
"""Functions of one float: what they return, and how."""
