"""Translate expressions: Python's syntax tree in, LLVM's instructions out."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from types import FunctionType
from typing import Any

from melange_sky.simulator.native import numbers
from melange_sky.simulator.native.kinds import Array, Record, Scalar, Several
from melange_sky.simulator.native.llvm_types import F64, I1, I64, ir_type
from melange_sky.simulator.native.values import NUMBERS, UNKNOWN, Value, Values


class Expressions(Values):
    """Translates the expressions of one function."""

    def value(self, node: ast.expr) -> Value:
        """Translate an expression."""
        known = self.known(node)
        if known is not UNKNOWN:
            return self._constant(node, known)
        match node:
            case ast.Name():
                kind, place = self.variable(node)
                return Value(kind, self.builder.load(place, typ=ir_type(kind)))
            case ast.Attribute():
                return self._field(node)
            case ast.Subscript():
                return self._element(node)
            case ast.Tuple(elts=parts):
                return self.several([self.value(part) for part in parts])
            case ast.Call():
                return self._call(node)
            case ast.IfExp():
                return self._choice(node)
            case _:
                return self._operation(node)

    def truth(self, node: ast.expr) -> Any:
        """Translate a condition."""
        value = self.value(node)
        if value.kind is Scalar.TRUTH:
            return value.ir
        if value.kind is Scalar.WHOLE:
            return self.builder.icmp_signed("!=", value.ir, I64(0))
        return self.fail(node, f"{value.kind} as a condition")

    def whole(self, node: ast.expr) -> Any:
        """Translate what must be a whole number."""
        return self.converted(node, self.value(node), Scalar.WHOLE)

    def place(self, node: ast.Subscript) -> tuple[Scalar, Any]:
        """Return the kind and the address of an array's element."""
        base = self.value(node.value)
        indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if not isinstance(base.kind, Array) or base.kind.dimensions != len(indices):
            return self.fail(node, f"{ast.unparse(node)}: {base.kind} does not take such indices")
        at = self.whole(indices[0])
        if len(indices) == 2:
            columns = self.builder.extract_value(base.ir, 2)
            at = self.builder.add(self.builder.mul(at, columns), self.whole(indices[1]))
        return base.kind.item, self.address(base, at)

    def _element(self, node: ast.Subscript) -> Value:
        base, pair = self.value(node.value), isinstance(node.slice, ast.Tuple)
        if isinstance(base.kind, Several):
            at = self.known(node.slice)
            if isinstance(at, int):
                return Value(base.kind.kinds[at], self.builder.extract_value(base.ir, at))
        if isinstance(base.kind, Array) and base.kind.dimensions == 2 and not pair:
            columns = self.builder.extract_value(base.ir, 2)
            start = self.address(base, self.builder.mul(self.whole(node.slice), columns))
            row = Array(base.kind.item, 1)
            return Value(row, self.aggregate(row, [start, columns]))
        item, place = self.place(node)
        return Value(item, self.builder.load(place, typ=ir_type(item)))

    def _field(self, node: ast.Attribute) -> Value:
        """A named tuple's field. Its slots never change, so that no store makes anew what is known."""
        record = self.value(node.value)
        if isinstance(record.kind, Record):
            for name, kind, slot in record.kind.fields:
                if name == node.attr:
                    return Value(kind, self.from_slots(record.ir, kind, slot))
        return self.fail(node, f"{ast.unparse(node)}: no such field")

    def _constant(self, node: ast.expr, known: object) -> Value:
        if isinstance(known, bool):
            return Value(Scalar.TRUTH, I1(known))
        if isinstance(known, int):
            return Value(Scalar.WHOLE, I64(known))
        if isinstance(known, float):
            return Value(Scalar.FLOAT, F64(known))
        return self.fail(node, f"{ast.unparse(node)} is neither a number nor an argument")

    def _choice(self, node: ast.IfExp) -> Value:
        builder = self.builder
        blocks = [builder.append_basic_block(name) for name in ("so", "else", "chosen")]
        builder.cbranch(self.truth(node.test), *blocks[:2])
        values, ends = [], []
        for block, part in zip(blocks[:2], (node.body, node.orelse), strict=True):
            builder.position_at_end(block)
            values.append(self.value(part))
            ends.append(builder.block)
        kind = self.common(node, values)
        phi = []
        for end, value in zip(ends, values, strict=True):
            builder.position_at_end(end)
            phi.append((self.converted(node, value, kind), end))
            builder.branch(blocks[2])
        builder.position_at_end(blocks[2])
        return Value(kind, self.joined(kind, phi))

    def _operation(self, node: ast.expr) -> Value:
        match node:
            case ast.BinOp(left=left, op=op, right=right):
                return self.operate(node, op, self.value(left), self.value(right))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Value(Scalar.TRUTH, self.builder.not_(self.truth(operand)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = self.value(operand)
                if value.kind is Scalar.FLOAT:
                    return Value(value.kind, self.builder.fneg(value.ir))
                return Value(
                    Scalar.WHOLE, self.builder.neg(self.converted(node, value, Scalar.WHOLE))
                )
            case ast.Compare():
                return self._comparison(node)
            case ast.BoolOp(op=op, values=parts):
                return self._junction(parts, isinstance(op, ast.And))
            case _:
                return self.fail(node, f"{ast.unparse(node)} cannot be translated")

    def operate(self, node: ast.AST, op: ast.operator, left: Value, right: Value) -> Value:
        """Translate an arithmetic operation."""
        kind = self.common(node, (left, right))
        if isinstance(op, ast.Div):
            kind = Scalar.FLOAT
        operations = numbers.WHOLE if kind is Scalar.WHOLE else numbers.FLOAT
        operation = operations.get(type(op))
        if operation is None or kind not in NUMBERS:
            return self.fail(node, f"{ast.unparse(node)}: no such operation of {kind}")
        sides = (self.converted(node, left, kind), self.converted(node, right, kind))
        return Value(kind, operation(self.builder, *sides))

    def _comparison(self, node: ast.Compare) -> Value:
        left = self.value(node.left)
        result: Any = None
        for op, side in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                found = self._is_among(node, left, side)
                one = self.builder.not_(found) if isinstance(op, ast.NotIn) else found
            else:
                right = self.value(side)
                one = self._compared(node, op, left, right)
                left = right
            result = one if result is None else self.builder.and_(result, one)
        return Value(Scalar.TRUTH, result)

    def _compared(self, node: ast.AST, op: ast.cmpop, left: Value, right: Value) -> Any:
        kind, sign = self.common(node, (left, right)), numbers.COMPARED.get(type(op))
        if sign is None or not isinstance(kind, Scalar):
            return self.fail(node, f"{ast.unparse(node)}: no such comparison")
        sides = (self.converted(node, left, kind), self.converted(node, right, kind))
        return numbers.compare(self.builder, sign, *sides)

    def _is_among(self, node: ast.AST, left: Value, side: ast.expr) -> Any:
        if not isinstance(side, ast.Tuple):
            return self.fail(node, "`in` takes a written-out tuple")
        found = I1(0)
        for part in side.elts:
            one = self._compared(node, ast.Eq(), left, self.value(part))
            found = self.builder.or_(found, one)
        return found

    def _junction(self, parts: Sequence[ast.expr], all_of: bool) -> Value:
        """`and`, `or`: what follows is looked at only where it decides."""
        builder, decided = self.builder, self.builder.append_basic_block("decided")
        incoming = []
        for part in parts[:-1]:
            holds, more = self.truth(part), builder.append_basic_block("more")
            incoming.append((I1(0 if all_of else 1), builder.block))
            builder.cbranch(holds, *((more, decided) if all_of else (decided, more)))
            builder.position_at_end(more)
        incoming.append((self.truth(parts[-1]), builder.block))
        builder.branch(decided)
        builder.position_at_end(decided)
        return Value(Scalar.TRUTH, self.joined(Scalar.TRUTH, incoming))

    def _call(self, node: ast.Call) -> Value:
        called = self.known(node.func)
        if node.keywords:
            self.fail(node, "keyword arguments")
        arguments = [self.value(a) for a in node.args]
        if isinstance(called, FunctionType):
            signature = self.functions.signature(called)
            if len(arguments) != len(signature.parameters):
                self.fail(node, f"{called.__name__} takes {len(signature.parameters)} arguments")
            handed = [
                self.converted(node, a, k)
                for a, k in zip(arguments, signature.parameters, strict=True)
            ]
            return Value(signature.result, self.builder.call(signature.ir, handed))
        return self._built_in(node, called, arguments)

    def _built_in(self, node: ast.Call, called: Any, arguments: list[Value]) -> Value:
        builder = self.builder
        if called in (min, max) and len(arguments) > 1:
            kind = self.common(node, arguments)
            sides = [self.converted(node, a, kind) for a in arguments]
            return Value(kind, numbers.extreme(builder, "<" if called is min else ">", sides))
        if len(arguments) != 1:
            self.fail(node, f"{ast.unparse(node)} cannot be translated")
        (one,) = arguments
        if called is len and isinstance(one.kind, Array):
            return Value(Scalar.WHOLE, builder.extract_value(one.ir, 1))
        if called is int:
            return Value(Scalar.WHOLE, numbers.as_whole(builder, one.ir))
        if called is float:
            return Value(Scalar.FLOAT, self.converted(node, one, Scalar.FLOAT))
        if called in numbers.OF_FLOATS:
            kind, operation = numbers.OF_FLOATS[called]
            return Value(kind, operation(builder, self.converted(node, one, Scalar.FLOAT)))
        return self.fail(node, f"{ast.unparse(node)} cannot be translated")
