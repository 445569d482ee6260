"""What the kernels of 4-bit experts pad: sizes rounded up to whole tiles, which memory holds though files do not.

From the engines' source (`mxfp4_round_up_hidden_size_and_intermediate_size`, `marlin_utils_fp4`,
`flashinfer_fp4_moe`) and the layouts of `triton_kernels` on Hopper.
"""

from __future__ import annotations

from dataclasses import dataclass

HOPPER, BLACKWELL, NEXT = 9.0, 10.0, 11.0
"""Compute capabilities: Hopper, Blackwell of data centres, and from where the others go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSizes:
    """Sizes of one routed expert; `form` names the format of its weights, "" for 16 bits.

    `gated`: gate and up projections are one matrix of twice the width. `whole` where each expert lies
    on one GPU, so that its width is not split.
    """

    form: str = ""
    hidden: int
    width: int
    gated: bool = True
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Multiples that sizes are rounded up to: of the layer first, then of each matrix."""

    hidden: int = 1
    width: int = 1
    outputs: int = 1
    inputs: int = 1


def tile_of(sizes: ExpertSizes, capability: float | None) -> Tile:
    """Return the tile of the kernels that run such experts on a GPU; `capability` None: no NVIDIA GPU."""
    if sizes.form == "mxfp4":
        return _mxfp4(capability)
    return _nvfp4(sizes, capability) if sizes.form == "nvfp4" else Tile()


def _mxfp4(capability: float | None) -> Tile:
    if capability is None:
        return Tile(hidden=256, width=256)
    if HOPPER <= capability < BLACKWELL:  # Triton, whose layout of values is padded
        return Tile(width=64, outputs=256, inputs=128)
    return Tile(hidden=256, width=128)  # Marlin; on Blackwell of data centres TensorRT-LLM's


def _nvfp4(sizes: ExpertSizes, capability: float | None) -> Tile:
    if capability is None or capability >= NEXT:
        return Tile()
    if capability >= BLACKWELL:
        return Tile(hidden=256, width=64 if sizes.gated else 128)
    return Tile(width=64 if sizes.hidden % 128 == 0 else 128)


def padding(sizes: ExpertSizes, capability: float | None, tensor_parallel: int) -> float:
    """Return how many times the bytes of its experts a tensor-parallel group holds, 1 where nothing is padded.

    >>> gpt_oss = ExpertSizes(form="mxfp4", hidden=2880, width=2880)
    >>> round(padding(gpt_oss, 8.0, 1), 3), round(padding(gpt_oss, 9.0, 1), 3)
    (1.09, 1.06)
    """
    tile = tile_of(sizes, capability)
    if tile == Tile():
        return 1.0
    parts = 1 if sizes.whole else tensor_parallel
    width, hidden = _up(-(-sizes.width // parts), tile.width), _up(sizes.hidden, tile.hidden)
    rising = (2 if sizes.gated else 1) * width
    held = _matrix(rising, hidden, tile) + _matrix(hidden, width, tile)
    own = (3 if sizes.gated else 2) * sizes.hidden * sizes.width
    return parts * held / own


def _matrix(outputs: int, inputs: int, tile: Tile) -> int:
    return _up(outputs, tile.outputs) * _up(inputs, tile.inputs)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
