"""Translate statements: what a function does, in order."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from types import FunctionType
from typing import Any

from melange_sky.simulator.native.expressions import Expressions
from melange_sky.simulator.native.kinds import Kind, Scalar, Several
from melange_sky.simulator.native.llvm_types import I64, ir_type
from melange_sky.simulator.native.values import Functions, Signature, Value


class Body(Expressions):
    """Translates the body of one function."""

    def __init__(
        self,
        functions: Functions,
        function: FunctionType,
        parsed: ast.FunctionDef,
        signature: Signature,
        builder: Any,
    ) -> None:
        """Translate into the function of `signature`, which is empty but for the block `builder` is in."""
        super().__init__(functions, function, builder)
        self.result = signature.result
        self.loops: list[tuple[Any, Any]] = []  # where `continue` and `break` go
        for argument, kind, value in zip(
            parsed.args.args, signature.parameters, signature.ir.args, strict=True
        ):
            self._store_name(argument, argument.arg, Value(kind, value))
        self.all_of(parsed.body)
        if not builder.block.is_terminated:
            if self.result is Scalar.NOTHING:
                builder.ret_void()
            else:
                builder.unreachable()  # mypy refuses a function that ends without its result

    def all_of(self, statements: Sequence[ast.stmt]) -> None:
        """Translate statements up to the first that goes elsewhere."""
        for statement in statements:
            if self.builder.block.is_terminated:
                return
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        """Translate one statement."""
        match node:
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                self._assign(node)
            case ast.If():
                self._if(node)
            case ast.While(test=test, body=body, orelse=[]):
                self._while(test, body)
            case ast.For(orelse=[]):
                self._for(node)
            case ast.Return():
                self._return(node)
            case ast.Expr(value=expression):
                if not isinstance(expression, ast.Constant):
                    self.value(expression)
            case _:
                self._jump(node)

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> None:
        if isinstance(node, ast.AugAssign):
            self._augment(node)
        elif node.value is not None:
            value = self.value(node.value)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._store(target, value)

    def _jump(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Break | ast.Continue) and self.loops:
            self.builder.branch(self.loops[-1][isinstance(node, ast.Break)])
        elif not isinstance(node, ast.Pass):
            self.fail(node, f"{type(node).__name__} cannot be translated here")

    def _store(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(id=name):
                self._store_name(target, name, value)
            case ast.Subscript():
                item, place = self.place(target)
                self.builder.store(self.converted(target, value, item), place)
            case ast.Tuple(elts=parts):
                if not isinstance(value.kind, Several) or len(value.kind.kinds) != len(parts):
                    self.fail(target, f"{len(parts)} names for {value.kind}")
                else:
                    for index, (part, kind) in enumerate(zip(parts, value.kind.kinds, strict=True)):
                        self._store(part, Value(kind, self.builder.extract_value(value.ir, index)))
            case _:
                self.fail(target, f"nothing is assigned to {ast.unparse(target)}")

    def _store_name(self, node: ast.AST, name: str, value: Value) -> None:
        """A name keeps the kind of what it first stood for."""
        if name not in self.variables:
            self.variables[name] = (value.kind, self._room(value.kind, name))
        kind, place = self.variables[name]
        self.builder.store(self.converted(node, value, kind), place)

    def _room(self, kind: Kind, name: str) -> Any:
        with self.builder.goto_entry_block():
            return self.builder.alloca(ir_type(kind), name=name)

    def _augment(self, node: ast.AugAssign) -> None:
        match node.target:
            case ast.Name(id=name) if name in self.variables:
                kind, place = self.variables[name]
            case ast.Subscript():
                kind, place = self.place(node.target)
            case _:
                self.fail(node, f"{ast.unparse(node.target)} is not known")
        before = Value(kind, self.builder.load(place, typ=ir_type(kind)))
        after = self.operate(node, node.op, before, self.value(node.value))
        self.builder.store(self.converted(node, after, kind), place)

    def _branch(self, block: Any) -> None:
        if not self.builder.block.is_terminated:
            self.builder.branch(block)

    def _if(self, node: ast.If) -> None:
        builder = self.builder
        then, after = builder.append_basic_block("then"), builder.append_basic_block("after")
        otherwise = builder.append_basic_block("else") if node.orelse else after
        builder.cbranch(self.truth(node.test), then, otherwise)
        for block, statements in ((then, node.body), (otherwise, node.orelse)):
            if statements:
                builder.position_at_end(block)
                self.all_of(statements)
                self._branch(after)
        builder.position_at_end(after)

    def _while(self, test: ast.expr, statements: Sequence[ast.stmt]) -> None:
        builder = self.builder
        again, body, after = (builder.append_basic_block(n) for n in ("again", "body", "after"))
        builder.branch(again)
        builder.position_at_end(again)
        builder.cbranch(self.truth(test), body, after)
        self._loop(body, again, after, statements)

    def _loop(self, body: Any, again: Any, after: Any, statements: Sequence[ast.stmt]) -> None:
        self.loops.append((again, after))
        self.builder.position_at_end(body)
        self.all_of(statements)
        self._branch(again)
        self.loops.pop()
        self.builder.position_at_end(after)

    def _for(self, node: ast.For) -> None:
        match node.iter:
            case ast.Tuple(elts=parts):
                for part in parts:  # written out
                    self._store(node.target, self.value(part))
                    self.all_of(node.body)
            case ast.Call(func=called, args=[*bounds]) if (
                self.known(called) is range and 0 < len(bounds) < 3
            ):
                first = self.whole(bounds[0]) if len(bounds) == 2 else I64(0)
                self._count(node, first, self.whole(bounds[-1]))
            case _:
                self.fail(node, "`for` takes a range or a written-out tuple")

    def _count(self, node: ast.For, first: Any, end: Any) -> None:
        builder = self.builder
        again, body, step, after = (
            builder.append_basic_block(n) for n in ("again", "body", "step", "after")
        )
        place = self._room(Scalar.WHOLE, "count")
        builder.store(first, place)
        builder.branch(again)
        builder.position_at_end(again)
        count = builder.load(place, typ=I64)
        builder.cbranch(builder.icmp_signed("<", count, end), body, after)
        builder.position_at_end(step)
        builder.store(builder.add(count, I64(1)), place)
        builder.branch(again)
        builder.position_at_end(body)
        self._store(node.target, Value(Scalar.WHOLE, count))
        self._loop(builder.block, step, after, node.body)

    def _return(self, node: ast.Return) -> None:
        if node.value is None or self.result is Scalar.NOTHING:
            self.builder.ret_void()
        else:
            self.builder.ret(self.converted(node, self.value(node.value), self.result))
