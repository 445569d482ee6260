"""Models: their sizes, the known ones, and `config.json`."""

from melange_sky.models.config import shape_from_config
from melange_sky.models.config_file import load_model
from melange_sky.models.shape import ModelShape
from melange_sky.models.shipped import find_model, known_models

__all__ = [
    "ModelShape",
    "find_model",
    "known_models",
    "load_model",
    "shape_from_config",
]
