"""Which sizes a tensor-parallel group must split whole: heads, widths, groups and blocks of quantization.

As engines refuse them at start: a row-parallel matrix needs whole groups of inputs on each GPU, a
column-parallel one whole blocks of outputs (`validate_fp8_block_shape`, the groups of AWQ and GPTQ).
Blocks of 8-bit experts are refined where they would be torn, groups of integer experts are not.
"""

from __future__ import annotations

from melange_sky.models.layers import LayerList, Matrix
from melange_sky.models.weights.formats import WeightFormat
from melange_sky.models.weights.scheme import Scheme

_ROWS = ("o_proj", "down_proj", "out_proj")
_COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


def split_units(model: LayerList, scheme: Scheme) -> tuple[tuple[int, int], ...]:
    """Return (size, unit) pairs: each GPU must get a whole number of units of every size."""
    units: dict[tuple[int, int], None] = {}
    done: set[int] = set()
    for number, layer in enumerate(model.layers):
        if not scheme.method and id(layer) in done:
            continue
        done.add(id(layer))
        if layer.attention.kind == "linear" and layer.attention.heads:
            units[(layer.attention.heads, 1)] = None
            if layer.attention.kv_heads:
                units[(layer.attention.kv_heads, 1)] = None
        prefix = model.prefix.replace("{i}", str(number))
        for matrix in layer.matrices:
            for unit in _units_of(prefix + matrix.name, matrix, scheme, layer.attention.kv_heads):
                units[unit] = None
    return tuple(units)


def _units_of(name: str, matrix: Matrix, scheme: Scheme, kv_heads: int) -> list[tuple[int, int]]:
    last = matrix.name.rpartition(".")[2]
    if matrix.part not in ("attention", "mlp", "experts", "shared_experts"):
        return []
    chosen = scheme.format_of(name, matrix)
    if last in _ROWS:
        return [(matrix.inputs, _group(chosen, matrix))]
    if last in _COLUMNS and chosen is not None and chosen.block > 1 and matrix.part != "experts":
        if last in ("k_proj", "v_proj") and kv_heads <= 1:
            return []
        return [(matrix.outputs, chosen.block)]
    return []


def _group(chosen: WeightFormat | None, matrix: Matrix) -> int:
    if chosen is None or chosen.group is None:
        return 1
    if matrix.part == "experts" and chosen.block > 1:
        return 1
    return chosen.group
