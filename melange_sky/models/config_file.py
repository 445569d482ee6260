"""Read a model from its known name or from a `config.json` and what lies beside it."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from melange_sky.errors import InputError
from melange_sky.models.checkpoint import Checkpoint, shape_from_checkpoint
from melange_sky.models.shape import ModelShape
from melange_sky.models.shipped import find_model
from melange_sky.models.weights.tensors import TensorTotals, totals_of_header, totals_of_index

MAX_FILE_BYTES = 64 * 2**20
SIDE_FILE, INDEX, WEIGHTS = (
    "hf_quant_config.json",
    "model.safetensors.index.json",
    "model.safetensors",
)


def load_model(name: str, config: Path | None = None) -> ModelShape:
    """Return the sizes of model `name`, from `config` (a file, or a folder that holds config.json).

    Without `config` the name must be a known one. A `hf_quant_config.json` beside the file says how
    its weights are kept where the config does not. Raises InputError for an unknown name, saying how
    to give a file, and for a file that is missing, not JSON or lacks fields.
    """
    if config is None:
        return find_model(name)
    return shape_from_checkpoint(read_local(config, name))


def read_local(path: Path, name: str | None = None) -> Checkpoint:
    """Return the checkpoint of a `config.json`, or of the folder that holds one.

    Raises InputError for a file that is missing, too large or not JSON.
    """
    if path.is_dir():
        path = path / "config.json"
    config, digest = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a JSON object; give the config.json of a Hugging Face model")
    files = {path.name: digest}
    side_path, side = path.parent / SIDE_FILE, None
    if path.name == "config.json" and side_path.is_file():
        side, files[SIDE_FILE] = read_json(side_path)
        if not isinstance(side, dict):
            raise InputError(f"{side_path}: not a JSON object")
    return Checkpoint(
        name=name or str(path),
        config=config,
        where=str(path),
        side_file=side,
        tensors=_tensors(path) if path.name == "config.json" else None,
        files=files,
    )


def read_json(path: Path) -> tuple[Any, str]:
    """Return a JSON document and the SHA-256 of its file."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a config.json")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is not JSON ({type(error).__name__}); give the config.json of a Hugging Face model"
        ) from error


def _tensors(config: Path) -> TensorTotals | None:
    """Return what the weight files beside a config hold, None where there are none."""
    index = config.parent / INDEX
    if index.is_file():
        document, _ = read_json(index)
        return totals_of_index(document, str(index)) if isinstance(document, dict) else None
    weights = config.parent / WEIGHTS
    return _header(weights) if weights.is_file() else None


def _header(weights: Path) -> TensorTotals:
    try:
        with weights.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(MAX_FILE_BYTES, weights.stat().st_size):
                raise InputError(
                    f"{weights}: states a header of {length} bytes, which is impossible"
                )
            header = json.loads(stream.read(length))
    except OSError as error:
        raise InputError(f"{weights}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{weights}: its header is not JSON") from error
    if not isinstance(header, dict):
        raise InputError(f"{weights}: its header is not a JSON object")
    return totals_of_header(header, str(weights))
