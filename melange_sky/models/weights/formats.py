"""Formats of single weights: bits, scales by group or block, and the bytes of a matrix in them."""

from __future__ import annotations

from dataclasses import dataclass

from melange_sky.models.layers import Matrix

VALUE_BYTES = {
    "bfloat16": 2.0,
    "float16": 2.0,
    "half": 2.0,
    "float32": 4.0,
    "float": 4.0,
    "auto": 2.0,
}
"""Bytes of a value by `torch_dtype`. Engines serve float32 checkpoints in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How the values of a quantised matrix are kept.

    A scale of `scale_bits` (and a zero point of `zero_bits`) stands for each group of `group` values
    along the inputs, or for each block of `block` outputs × `group` inputs; `group` None: one scale
    for each row of outputs, `per_tensor`: one for the whole matrix. `row_bytes` are further bytes for
    each input (an order of the inputs). `float8` True where products run in 8-bit floats.
    """

    name: str
    bits: float
    group: int | None = None
    block: int = 1
    scale_bits: int = 16
    zero_bits: float = 0
    per_tensor: bool = False
    row_bytes: int = 0
    float8: bool = False

    def matrix_bytes(self, matrix: Matrix) -> float:
        """Return the bytes of the quantised part of a matrix over all its copies."""
        scales = 1
        if not self.per_tensor:
            groups = 1 if self.group is None else -(-matrix.inputs // self.group)
            scales = -(-matrix.outputs // self.block) * groups
        bits = matrix.outputs * matrix.inputs * self.bits + scales * (
            self.scale_bits + self.zero_bits
        )
        return matrix.copies * (bits / 8 + self.row_bytes * matrix.inputs)


FP8_TENSOR = WeightFormat(name="fp8", bits=8, scale_bits=32, per_tensor=True, float8=True)
FP8_CHANNEL = WeightFormat(name="fp8", bits=8, scale_bits=32, float8=True)
NVFP4 = WeightFormat(name="nvfp4", bits=4, group=16, scale_bits=8)
MXFP4 = WeightFormat(name="mxfp4", bits=4, group=32, scale_bits=8)
MXFP8 = WeightFormat(name="mxfp8", bits=8, group=32, scale_bits=8, float8=True)
MXFP6 = WeightFormat(name="mxfp6", bits=6, group=32, scale_bits=8)
INT8_CHANNEL = WeightFormat(name="int8", bits=8)
INT4_AWQ = WeightFormat(name="int4", bits=4, group=128)


def fp8_block(rows: int, columns: int) -> WeightFormat:
    """Return 8-bit floats with a 32-bit scale for each block of rows × columns."""
    return WeightFormat(name="fp8", bits=8, group=columns, block=rows, scale_bits=32, float8=True)


def integers(bits: float, group: int | None, zero_point: bool, order: bool = False) -> WeightFormat:
    """Return integer weights in groups; `order`: a 32-bit index for each input, as GPTQ keeps it."""
    return WeightFormat(
        name=f"int{bits:g}",
        bits=bits,
        group=group,
        zero_bits=bits if zero_point else 0,
        row_bytes=4 if order else 0,
    )
