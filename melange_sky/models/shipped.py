"""Models whose figures are shipped, so that a plan needs no download: `catalogs/models.json`."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.checkpoint import Checkpoint, read_model
from melange_sky.models.shape import ModelShape
from melange_sky.resources import catalogs_dir


@lru_cache(maxsize=1)
def _entries() -> dict[str, dict[str, Any]]:
    """Return every known name, aliases included, with its entry."""
    document = json.loads((catalogs_dir() / "models.json").read_text(encoding="utf-8"))
    return {name: entry for entry in document["models"] for name in entry["names"]}


def known_models() -> tuple[str, ...]:
    """Return the Hugging Face ids of the models that are known without a file."""
    return tuple(sorted(_entries()))


def known_name(name: str) -> str | None:
    """Return the id of a known model, case aside; the organisation may be left out."""
    entries = _entries()
    folded = {known.rpartition("/")[2].casefold(): known for known in entries}
    folded |= {known.casefold(): known for known in entries}
    return folded.get(name.casefold())


def shipped_checkpoint(name: str) -> Checkpoint:
    """Return the shipped files of a known model.

    Raises InputError that says how to give a file.
    """
    known = known_name(name)
    if known is None:
        entries = _entries()
        hint = did_you_mean(name, [*entries, *(n.rpartition("/")[2] for n in entries)])
        raise InputError(
            f"unknown model '{name[:120]}'{hint}; give the path of its config.json "
            "(spec: model_config, capacity: --model path/to/config.json)"
        )
    entry = _entries()[known]
    return Checkpoint(
        name=known,
        config=entry["config"],
        side_file=entry.get("hf_quant_config"),
        where=f"figures of {known}",
        gated=bool(entry.get("gated", False)),
    )


def find_model(name: str) -> ModelShape:
    """Return a known model by its Hugging Face id, case aside, the organisation may be left out.

    Raises InputError that says how to give a file.
    """
    return read_model(shipped_checkpoint(name)).shape
