"""Models: their sizes, the known ones, `config.json`, and what engine arguments change."""

from melange_sky.models.config import shape_from_config
from melange_sky.models.config_file import load_model
from melange_sky.models.engine_args import (
    form_args,
    longest_admitted,
    refused_flag,
    unmodelled_flags,
    with_engine_args,
    without_max_model_len,
)
from melange_sky.models.shape import ModelShape
from melange_sky.models.shipped import find_model, known_models

__all__ = [
    "ModelShape",
    "find_model",
    "form_args",
    "known_models",
    "load_model",
    "longest_admitted",
    "refused_flag",
    "shape_from_config",
    "unmodelled_flags",
    "with_engine_args",
    "without_max_model_len",
]
