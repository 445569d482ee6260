"""Models: their layers and sizes, the known ones, and `config.json`."""

from melange_sky.models.checkpoint import (
    Checkpoint,
    ReadModel,
    StoredCache,
    read_model,
    shape_from_checkpoint,
)
from melange_sky.models.config import shape_from_config
from melange_sky.models.config_file import load_model
from melange_sky.models.layers import LayerList
from melange_sky.models.reading.read import read_layers
from melange_sky.models.shape import ModelShape
from melange_sky.models.shipped import find_model, known_models, known_name, shipped_checkpoint

__all__ = [
    "Checkpoint",
    "LayerList",
    "ModelShape",
    "ReadModel",
    "StoredCache",
    "find_model",
    "known_models",
    "known_name",
    "load_model",
    "read_layers",
    "read_model",
    "shape_from_checkpoint",
    "shape_from_config",
    "shipped_checkpoint",
]
