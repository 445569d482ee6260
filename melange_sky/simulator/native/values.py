"""What translated expressions are, and what can be done with any of them."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, NoReturn, Protocol

from llvmlite import ir

from melange_sky.simulator.native.kinds import (
    Array,
    Kind,
    Scalar,
    Several,
    TranslationError,
    slots_of,
)
from melange_sky.simulator.native.llvm_types import F64, I1, I64, ir_type

UNKNOWN = object()
NUMBERS = (Scalar.WHOLE, Scalar.FLOAT)


@dataclass(frozen=True, slots=True)
class Value:
    """A translated expression."""

    kind: Kind
    ir: Any


@dataclass(frozen=True, slots=True)
class Signature:
    """A function of the module: its arguments' kinds and what it returns."""

    ir: Any
    parameters: tuple[Kind, ...]
    result: Kind


class Functions(Protocol):
    """Knows the translated form of every function that is called."""

    def signature(self, function: FunctionType) -> Signature:
        """Return a function's signature; its body is translated some time."""


class Values:
    """One function's names and values; `variables` are its names so far."""

    def __init__(self, functions: Functions, function: FunctionType, builder: Any) -> None:
        """Translate to where `builder` stands."""
        self.functions = functions
        self.function = function
        self.builder = builder
        self.variables: dict[str, tuple[Kind, Any]] = {}

    def fail(self, node: ast.AST, why: str) -> NoReturn:
        """Refuse what cannot be translated, with its place."""
        file, line = self.function.__code__.co_filename, getattr(node, "lineno", 0)
        raise TranslationError(f"{file}:{line}: {why}")

    def known(self, node: ast.expr) -> Any:
        """Return what a constant, or a name of a module, stands for."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name) if name not in self.variables:
                found = self.function.__globals__.get(name, UNKNOWN)
                return getattr(builtins, name, UNKNOWN) if found is UNKNOWN else found
            case ast.Attribute(value=inner, attr=name):
                module = self.known(inner)
                return getattr(module, name) if isinstance(module, ModuleType) else UNKNOWN
            case _:
                return UNKNOWN

    def converted(self, node: ast.AST, value: Value, kind: Kind) -> Any:
        """Return a value as one of another kind; only whole numbers become floats."""
        if value.kind == kind:
            return value.ir
        if value.kind is Scalar.WHOLE and kind is Scalar.FLOAT:
            return self.builder.sitofp(value.ir, F64)
        if isinstance(value.kind, Several) and isinstance(kind, Several):
            parts = [
                Value(k, self.builder.extract_value(value.ir, i))
                for i, k in enumerate(value.kind.kinds)
            ]
            if len(parts) == len(kind.kinds):
                items = [self.converted(node, p, k) for p, k in zip(parts, kind.kinds, strict=True)]
                return self.aggregate(kind, items)
        return self.fail(node, f"{value.kind} where {kind} is meant")

    def several(self, values: Sequence[Value]) -> Value:
        """Return values as a tuple."""
        kind = Several(tuple(v.kind for v in values))
        return Value(kind, self.aggregate(kind, [v.ir for v in values]))

    def aggregate(self, kind: Kind, parts: Sequence[Any]) -> Any:
        """Return parts as one value of LLVM's."""
        whole = ir.Constant(ir_type(kind), ir.Undefined)
        for index, part in enumerate(parts):
            whole = self.builder.insert_value(whole, part, index)
        return whole

    def address(self, array: Value, at: Any) -> Any:
        """Return the address of an array's item, counted through all rows."""
        assert isinstance(array.kind, Array)
        start = self.builder.extract_value(array.ir, 0)
        return self.builder.gep(start, [at], inbounds=True, source_etype=ir_type(array.kind.item))

    def variable(self, node: ast.Name) -> tuple[Kind, Any]:
        """Return the kind of a name, and where its value is."""
        if node.id not in self.variables:
            self.fail(node, f"{node.id} is not known")
        return self.variables[node.id]

    def from_slots(self, slots: Any, kind: Kind, at: int) -> Any:
        """Load a value from memory that nothing changes meanwhile."""
        if isinstance(kind, Several):
            parts, place = [], at
            for part in kind.kinds:
                parts.append(self.from_slots(slots, part, place))
                place += slots_of(part)
            return self.aggregate(kind, parts)
        place = self.builder.gep(slots, [I64(at)], inbounds=True, source_etype=I64)
        if kind is Scalar.TRUTH:
            return self.builder.trunc(self._lasting(place, I64), I1)
        return self._lasting(place, ir_type(kind))

    def _lasting(self, place: Any, kind: Any) -> Any:
        load = self.builder.load(place, typ=kind)
        load.set_metadata("invariant.load", self.builder.module.add_metadata([]))
        return load

    def joined(self, kind: Kind, incoming: Sequence[tuple[Any, Any]]) -> Any:
        """Return the value that belongs to the block from which this one was reached."""
        phi = self.builder.phi(ir_type(kind))
        for value, block in incoming:
            phi.add_incoming(value, block)
        return phi

    def common(self, node: ast.AST, values: Sequence[Value]) -> Kind:
        """Return the kind that all values can take."""
        kinds = {v.kind for v in values}
        if len(kinds) == 1:
            return values[0].kind
        if kinds == set(NUMBERS):
            return Scalar.FLOAT
        return self.fail(node, f"{' and '.join(sorted(map(str, kinds)))} in one expression")
