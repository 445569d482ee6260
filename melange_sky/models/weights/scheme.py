"""The quantization of a whole checkpoint, module by module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from melange_sky.models.layers import LayerList, Matrix, Part
from melange_sky.models.weights.formats import WeightFormat
from melange_sky.models.weights.patterns import Names

DECODER_PARTS: frozenset[Part] = frozenset(
    {"attention", "linear_attention", "mlp", "experts", "shared_experts", "adapter"}
)
"""What methods that work on the layers of a decoder quantise; towers, head and router stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How the weights of a checkpoint are kept.

    `method` is the engines' name of it, "" for plain weights of `value_bytes` each. `rules` give formats to
    listed modules before `default` applies to the others among `parts`; `ignored` modules stay plain.
    `by_part` gives single parts a format of their own. `kv_cache` is the form in which the checkpoint asks
    for its KV cache to be held ("fp8", "nvfp4"; "other" for one that engines do not read), None for none.
    `notes` say what a reader must know of it.
    """

    method: str = ""
    dtype: str = "bfloat16"
    value_bytes: float = 2.0
    default: WeightFormat | None = None
    parts: frozenset[Part] = DECODER_PARTS
    by_part: Mapping[Part, WeightFormat] = field(default_factory=dict)
    rules: tuple[tuple[Names, WeightFormat | None], ...] = ()
    ignored: Names = field(default_factory=lambda: Names(()))
    kv_cache: str | None = None
    section: str = ""
    notes: tuple[str, ...] = ()

    def format_of(self, name: str, matrix: Matrix) -> WeightFormat | None:
        """Return the format of a module, None where its values are plain."""
        if not matrix.linear:
            return None
        for names, chosen in self.rules:
            if name in names:
                return chosen
        if matrix.part not in self.parts or name in self.ignored:
            return None
        return self.by_part.get(matrix.part, self.default)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSizes:
    """Bytes of the weights of a model: all its files, and what an engine loads of them."""

    file_bytes: float
    resident_bytes: float
    expert_bytes: float
    by_format: Mapping[str, float]


def weight_sizes(model: LayerList, scheme: Scheme) -> WeightSizes:
    """Return the bytes of every module in its format, added up."""
    if not scheme.method:
        return _plain_sizes(model, scheme)
    by_format: dict[str, float] = {}
    experts = extra = 0.0
    for name, matrix in model.all_matrices():
        chosen = scheme.format_of(name, matrix)
        size = matrix_bytes(chosen, matrix, scheme.value_bytes)
        label = scheme.dtype if chosen is None else chosen.name
        by_format[label] = by_format.get(label, 0.0) + size
        if name.startswith("mtp."):
            extra += size
        elif matrix.part == "experts":
            experts += size
    total = sum(by_format.values())
    return WeightSizes(
        file_bytes=total,
        resident_bytes=total - extra,
        expert_bytes=experts,
        by_format=by_format,
    )


def _plain_sizes(model: LayerList, scheme: Scheme) -> WeightSizes:
    total = model.parameters * scheme.value_bytes
    return WeightSizes(
        file_bytes=total,
        resident_bytes=model.resident_parameters * scheme.value_bytes,
        expert_bytes=model.expert_parameters * scheme.value_bytes,
        by_format={scheme.dtype: total},
    )


def matrix_bytes(chosen: WeightFormat | None, matrix: Matrix, value_bytes: float) -> float:
    """Return the bytes of one weight with what stands beside it; plain values take `value_bytes`."""
    beside = matrix.copies * matrix.extra * value_bytes
    if chosen is None:
        return matrix.weights * value_bytes + beside
    return chosen.matrix_bytes(matrix) + beside
