"""One checkpoint of a model as it was read: its files, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from melange_sky.errors import InputError
from melange_sky.models.config import shape_of
from melange_sky.models.layers import LayerList
from melange_sky.models.names_check import kind_warning, name_warning
from melange_sky.models.reading.read import read_layers
from melange_sky.models.shape import ModelShape
from melange_sky.models.weights.scheme import Scheme, WeightSizes, weight_sizes
from melange_sky.models.weights.sections import read_scheme
from melange_sky.models.weights.splits import check_groups
from melange_sky.models.weights.tensors import TensorTotals, check_bytes, nearest_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The files of a checkpoint that say what it is.

    `revision` is the commit they are of, None for the user's own file. `side_file` holds its
    `hf_quant_config.json`, `tensors` the bytes that its weight files hold, `files` the SHA-256 of
    each file read.
    """

    name: str
    config: Mapping[str, Any]
    where: str
    revision: str | None = None
    side_file: Mapping[str, Any] | None = None
    tensors: TensorTotals | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    gated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCache:
    """A KV cache that a checkpoint asks for: `form` as in `Scheme.kv_cache`, by a `method` of quantization.

    `latent` True where attention caches a compressed latent.
    """

    form: str
    method: str
    latent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """A checkpoint understood: its layers, the formats of its weights, and their bytes."""

    checkpoint: Checkpoint
    layers: LayerList
    scheme: Scheme
    sizes: WeightSizes
    warnings: tuple[str, ...]

    @property
    def file_bytes(self) -> float:
        """Bytes of the checkpoint's files: their own where they were seen, else as counted."""
        seen = self.checkpoint.tensors
        return self.sizes.file_bytes if seen is None else float(seen.total_bytes)

    @property
    def counted_bytes(self) -> float:
        """Bytes that the config was read as: those of all files, or of what is loaded, as its files have."""
        seen = self.checkpoint.tensors
        counts = (self.sizes.file_bytes, self.sizes.resident_bytes)
        return counts[0] if seen is None else nearest_count(counts, seen)

    @property
    def shape(self) -> ModelShape:
        """The sizes that the planner works with, by the bytes of the checkpoint's files where seen."""
        shape = shape_of(self.checkpoint.name, self.layers, self.scheme)
        seen = self.checkpoint.tensors
        if seen is not None:
            exact = 1.0 if self.layers.unloaded else seen.total_bytes / self.counted_bytes
            shape = dataclasses.replace(
                shape.scaled(exact), checkpoint_bytes=float(seen.total_bytes)
            )
        told = tuple(text for text in self.warnings if text not in shape.notes)
        return dataclasses.replace(shape, gated=self.checkpoint.gated, notes=(*told, *shape.notes))

    @property
    def stored_cache(self) -> StoredCache | None:
        """The KV cache that the checkpoint asks for, None where it asks for none."""
        if self.scheme.kv_cache is None:
            return None
        latent = any(layer.attention.kind in ("latent", "sparse") for layer in self.layers.layers)
        return StoredCache(form=self.scheme.kv_cache, method=self.scheme.method, latent=latent)


def read_model(checkpoint: Checkpoint) -> ReadModel:
    """Return what a checkpoint is. Raises InputError, one line, where it cannot be sized."""
    measured = checkpoint.tensors is not None
    layers = read_layers(checkpoint.config, checkpoint.where, measured=measured)
    try:
        scheme = read_scheme(checkpoint.config, checkpoint.side_file, checkpoint.where)
    except RecursionError as error:
        raise InputError(f"{checkpoint.where}: nested too deeply to be a model's config") from error
    check_groups(checkpoint.name, layers, scheme)
    sizes = weight_sizes(layers, scheme)
    if checkpoint.tensors is not None:
        check_bytes(
            checkpoint.name,
            (sizes.file_bytes, sizes.resident_bytes),
            checkpoint.tensors,
            has_unloaded=bool(layers.unloaded),
        )
    warnings = [*layers.warnings, *scheme.notes]
    told = [kind_warning(checkpoint.name)]
    if checkpoint.tensors is None:
        told.append(name_warning(checkpoint.name, layers.parameters))
    warnings += [text for text in told if text is not None]
    return ReadModel(
        checkpoint=checkpoint,
        layers=layers,
        scheme=scheme,
        sizes=sizes,
        warnings=tuple(warnings),
    )


def shape_from_checkpoint(checkpoint: Checkpoint) -> ModelShape:
    """Return the sizes that the planner works with. Raises InputError where it cannot be sized."""
    return read_model(checkpoint).shape
