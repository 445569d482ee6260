"""Read a model from its known name or from a `config.json`."""

from __future__ import annotations

from pathlib import Path

from melange_sky.models import ModelShape, find_model, shape_from_checkpoint


def load_model(name: str, config: Path | None = None) -> ModelShape:
    """Return the sizes of model `name`, from `config` (a file, or a folder that holds config.json).

    Without `config` the name must be a known one. A `hf_quant_config.json` beside the file says how
    its weights are kept where the config does not. Raises InputError for an unknown name, saying how
    to give a file, and for a file that is missing, not JSON or lacks fields.
    """
    if config is None:
        return find_model(name)
    from melange_sky.hub.local import read_local

    return shape_from_checkpoint(read_local(config, name))
