"""A model by its id: kept files first, the Hub where they are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from melange_sky.errors import SourceUnavailableError
from melange_sky.hub.reference import ModelReference
from melange_sky.hub.store import KeptModel, ModelStore
from melange_sky.models.checkpoint import Checkpoint
from melange_sky.models.weights.tensors import TensorTotals
from melange_sky.settings import hub_is_off


def load_checkpoint(reference: ModelReference, home: Path, *, offline: bool) -> Checkpoint:
    """Return a model's files: those kept under `home`, else fetched from the Hub and kept.

    Raises SourceUnavailableError where they are not kept and the network is forbidden.
    """
    kept = ModelStore(home).load(reference)
    if kept is None:
        kept = pull(reference, home, offline=offline)
    return as_checkpoint(kept)


def pull(reference: ModelReference, home: Path, *, offline: bool) -> KeptModel:
    """Fetch a model's files from the Hub, whatever is kept already, and keep them."""
    if offline or hub_is_off():
        raise SourceUnavailableError(
            f"{reference.repo}: this model is not kept on this machine and the network is forbidden; "
            f"run once with it: melange-sky models pull {reference}"
        )
    from melange_sky.hub.fetch import fetch_model

    fetched = fetch_model(reference)
    ModelStore(home).save(fetched, reference)
    return fetched


def as_checkpoint(kept: KeptModel) -> Checkpoint:
    """Return kept files as a checkpoint."""
    from melange_sky.hub.fetch import CONFIG, SIDE_FILE, parsed

    side = kept.files.get(SIDE_FILE)
    return Checkpoint(
        name=kept.repo,
        revision=kept.commit,
        config=parsed(kept.repo, CONFIG, kept.files[CONFIG]),
        side_file=None if side is None else parsed(kept.repo, SIDE_FILE, side),
        where=f"{kept.repo}: {CONFIG}",
        tensors=_totals(kept.totals),
        files=kept.hashes,
        gated=kept.gated,
    )


def _totals(document: Mapping[str, Any] | None) -> TensorTotals | None:
    if document is None:
        return None
    return TensorTotals(
        total_bytes=int(document["total_bytes"]),
        by_part=document.get("by_part"),
        parameters=document.get("parameters"),
    )
