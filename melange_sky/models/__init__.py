"""Models: their layers and sizes, the known ones, `config.json`, and what engine arguments change."""

from melange_sky.models.checkpoint import Checkpoint, ReadModel, read_model, shape_from_checkpoint
from melange_sky.models.config import shape_from_config
from melange_sky.models.engine_args import (
    form_args,
    longest_admitted,
    refused_flag,
    unmodelled_flags,
    with_engine_args,
    without_max_model_len,
)
from melange_sky.models.layers import LayerList
from melange_sky.models.reading.read import read_layers
from melange_sky.models.shape import ModelShape
from melange_sky.models.shipped import find_model, known_models, known_name, shipped_checkpoint

__all__ = [
    "Checkpoint",
    "LayerList",
    "ModelShape",
    "ReadModel",
    "find_model",
    "form_args",
    "known_models",
    "known_name",
    "longest_admitted",
    "read_layers",
    "read_model",
    "refused_flag",
    "shape_from_checkpoint",
    "shape_from_config",
    "shipped_checkpoint",
    "unmodelled_flags",
    "with_engine_args",
    "without_max_model_len",
]
