"""The kinds of value as types of LLVM's language."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from melange_sky.simulator.native.kinds import Array, Kind, Record, Scalar, Several

I1, I64, F64 = ir.IntType(1), ir.IntType(64), ir.DoubleType()
POINTER = ir.PointerType()

_SCALARS = {
    Scalar.WHOLE: I64,
    Scalar.FLOAT: F64,
    Scalar.TRUTH: I1,
    Scalar.NOTHING: ir.VoidType(),
}


def ir_type(kind: Kind) -> Any:
    """Return the type of a value in LLVM's language."""
    match kind:
        case Array():
            return ir.LiteralStructType([POINTER, *[I64] * kind.dimensions])
        case Several():
            return ir.LiteralStructType([ir_type(k) for k in kind.kinds])
        case Record():
            return POINTER
        case _:
            return _SCALARS[kind]
