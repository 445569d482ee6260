"""Which sizes a tensor-parallel group must split whole: heads, widths, groups and blocks of quantization.

As engines refuse them at start: a row-parallel matrix needs whole groups of inputs on each GPU, a
column-parallel one whole blocks of outputs (`validate_fp8_block_shape`, the groups of AWQ and GPTQ).
Blocks of 8-bit experts are refined where they would be torn, groups of integer experts are not. Those
of gpt-oss are dealt out whole, as many to each GPU but the last, and padded there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from melange_sky.errors import InputError
from melange_sky.models.layers import Layer, LayerList, Matrix
from melange_sky.models.split_units import SplitUnit
from melange_sky.models.weights.formats import WeightFormat
from melange_sky.models.weights.scheme import DECODER_PARTS, Scheme

_ROWS = ("o_proj", "down_proj", "out_proj")
_WHOLE_GROUPS = ("awq", "auto_awq", "gptq", "auto_gptq", "compressed-tensors")
_COLUMNS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")


def split_units(model: LayerList, scheme: Scheme) -> tuple[SplitUnit, ...]:
    """Return what each GPU must get whole units of; the first of each kind stands for all."""
    units: dict[tuple[int, int, bool, int | None], SplitUnit] = {}
    done: set[int] = set()
    for number, layer in enumerate(model.layers):
        if not scheme.method and id(layer) in done:
            continue
        done.add(id(layer))
        prefix = model.prefix.replace("{i}", str(number))
        dealt = model.model_type == "gpt_oss" and "mxfp4" in scheme.method
        for unit in _units_of_layer(layer, prefix, scheme, dealt):
            units.setdefault((unit.size, unit.unit, unit.expert, unit.parts), unit)
    return tuple(units.values())


def check_groups(name: str, model: LayerList, scheme: Scheme) -> None:
    """Raise InputError where a matrix has no whole number of the groups that its integers share a scale in."""
    if not scheme.method.startswith(_WHOLE_GROUPS):
        return
    for full, matrix in model.all_matrices():
        chosen = scheme.format_of(full, matrix)
        if chosen is None or not chosen.group or matrix.part not in DECODER_PARTS:
            continue
        if not chosen.name.startswith("int"):
            continue
        if matrix.inputs > chosen.group and matrix.inputs % chosen.group:
            raise InputError(
                f"{name}: the {matrix.inputs} inputs of {matrix.name} are no whole number of groups of "
                f"{chosen.group} ('group_size'), which engines refuse"
            )


def _units_of_layer(layer: Layer, prefix: str, scheme: Scheme, dealt: bool) -> Iterator[SplitUnit]:
    attention = layer.attention
    if attention.kind == "linear" and attention.heads:
        yield SplitUnit(what="heads of linear attention", size=attention.heads)
        if attention.kv_heads:
            yield SplitUnit(what="key heads of linear attention", size=attention.kv_heads)
    for matrix in layer.matrices:
        unit = _unit_of(prefix + matrix.name, matrix, scheme, attention.kv_heads)
        if unit is not None and unit.expert and dealt:
            unit = dataclasses.replace(unit, unit=1)
        if unit is not None:
            yield unit


def _unit_of(name: str, matrix: Matrix, scheme: Scheme, kv_heads: int) -> SplitUnit | None:
    last = matrix.name.rpartition(".")[2]
    if matrix.part not in ("attention", "mlp", "experts", "shared_experts"):
        return None
    chosen, expert = scheme.format_of(name, matrix), matrix.part == "experts"
    block = 1 if chosen is None else chosen.block
    kept = "block" if block > 1 else "group"
    if last in _ROWS:
        what, unit = f"inputs of {matrix.name}", _group(chosen, matrix)
        return SplitUnit(what=what, size=matrix.inputs, unit=unit, kept=kept, expert=expert)
    if last in _COLUMNS and block > 1 and not expert:
        parts = max(kv_heads, 1) if last in ("k_proj", "v_proj") else None
        what = f"outputs of {matrix.name}"
        return SplitUnit(what=what, size=matrix.outputs, unit=block, kept=kept, parts=parts)
    return None


def _group(chosen: WeightFormat | None, matrix: Matrix) -> int:
    if chosen is None or chosen.group is None:
        return 1
    if matrix.part == "experts" and chosen.block > 1:
        return 1
    return chosen.group
