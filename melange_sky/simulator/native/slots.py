"""Hand arguments over in memory: eight bytes a slot, arrays as their address and sizes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from melange_sky.simulator.native.kinds import Array, Kind, Record, Scalar, Several, record_of

_WHOLE, _FLOAT = np.dtype(np.int64), np.dtype(np.float64)


class Packed:
    """A named tuple of arrays made ready once, for many calls."""

    def __init__(self, record: Any) -> None:
        """Keep the arrays of `record` where they are."""
        self.record = record
        slots: list[int] = []
        self.parts: list[Packed] = []
        for name, kind, _place in record_of(type(record)).fields:
            put(kind, getattr(record, name), slots, self.parts)
        self.slots = np.array(slots, dtype=np.int64)


def put(kind: Kind, value: Any, slots: list[int], kept: list[Packed]) -> None:
    """Append a value's slots; `kept` holds what must live as long as they do.

    Raises TypeError where the value is not of the kind.
    """
    match kind:
        case Array():
            item = _FLOAT if kind.item is Scalar.FLOAT else _WHOLE
            if value.dtype != item or value.ndim != kind.dimensions:
                raise TypeError(f"an array of {value.dtype}, {value.ndim}-dimensional, for {kind}")
            if not value.flags.c_contiguous:
                raise TypeError("an array with gaps")
            slots += [value.__array_interface__["data"][0], *value.shape]
        case Several():
            for part, item in zip(kind.kinds, value, strict=True):
                put(part, item, slots, kept)
        case Record():
            packed = value if isinstance(value, Packed) else Packed(value)
            if type(packed.record).__name__ != kind.name:
                raise TypeError(f"{type(packed.record).__name__} for {kind.name}")
            kept.append(packed)
            slots.append(packed.slots.__array_interface__["data"][0])
        case Scalar.FLOAT:
            slots.append(struct.unpack("q", struct.pack("d", value))[0])
        case _:
            slots.append(int(value))


def take(kind: Kind, slots: list[int]) -> Any:
    """Return a value from the front of its slots."""
    if isinstance(kind, Several):
        return tuple(take(part, slots) for part in kind.kinds)
    if kind is Scalar.NOTHING:
        return None
    raw = slots.pop(0)
    if kind is Scalar.FLOAT:
        return struct.unpack("d", struct.pack("q", raw))[0]
    return bool(raw) if kind is Scalar.TRUTH else raw
