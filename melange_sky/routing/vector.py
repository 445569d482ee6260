"""What the policy's functions take: lists in the gateway, arrays where the simulator runs them."""

from __future__ import annotations

from typing import Protocol, TypeVar

Value = TypeVar("Value", int, float)


class Vector(Protocol[Value]):
    """A list, or an array of one dimension."""

    def __getitem__(self, index: int, /) -> Value: ...
    def __setitem__(self, index: int, value: Value, /) -> None: ...
    def __len__(self) -> int: ...
