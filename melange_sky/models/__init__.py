"""Models: their sizes, the known ones, `config.json`, and what engine arguments change."""

from melange_sky.models.config import shape_from_config
from melange_sky.models.engine_args import form_args, with_engine_args
from melange_sky.models.known import find_model, known_models
from melange_sky.models.shape import ModelShape

__all__ = [
    "ModelShape",
    "find_model",
    "form_args",
    "known_models",
    "shape_from_config",
    "with_engine_args",
]
