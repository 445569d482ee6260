"""Read a model from its known name or from a `config.json`."""

from __future__ import annotations

import json
from pathlib import Path

from melange_sky.errors import InputError
from melange_sky.models.config import shape_from_config
from melange_sky.models.shape import ModelShape
from melange_sky.models.shipped import find_model

MAX_CONFIG_BYTES = 4 * 1024 * 1024


def load_model(name: str, config: Path | None = None) -> ModelShape:
    """Return the sizes of model `name`, from `config` (a file, or a folder that holds config.json).

    Without `config` the name must be a known one. Raises InputError for an unknown name, saying how
    to give a file, and for a file that is missing, not JSON or lacks fields.
    """
    if config is None:
        return find_model(name)
    path = config / "config.json" if config.is_dir() else config
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes, not a config.json")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not JSON ({type(error).__name__}); give the config.json of a Hugging Face model"
        ) from error
    return shape_from_config(name, document, where=str(path))
