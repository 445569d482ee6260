"""What a model is, which are known, fetching one from the Hub: what `models` does."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.models import known_models, read_model
from melange_sky.planner.model_files import load_typed
from melange_sky.settings import home_dir, is_offline

if TYPE_CHECKING:
    from melange_sky.models import ReadModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model that needs no network: shipped, or fetched before.

    `revision` is what was asked of the Hub, `commit` what that was; both None for a shipped one.
    """

    model: str
    revision: str | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedModel:
    """A model as it was read, and the files of one commit that are kept now."""

    read: ReadModel
    commit: str
    files: tuple[str, ...]


def show_model(model: str, *, offline: bool = False) -> ReadModel:
    """Return a model as it was read, named by a path, by a known id, or by an id of the Hub.

    A file and a shipped model need no network. Raises InputError for a model that cannot be read,
    SourceUnavailableError where it would have to be fetched and cannot be.
    """
    return load_typed(model, offline=is_offline(offline)).read


def list_models() -> tuple[KnownModel, ...]:
    """Return the models that need no network: the shipped ones, then those fetched before."""
    from melange_sky.hub.store import ModelStore

    kept = ModelStore(home_dir()).kept()
    log.info("%d models shipped, %d kept in %s", len(known_models()), len(kept), home_dir())
    shipped = [KnownModel(model=name) for name in known_models()]
    fetched = [
        KnownModel(model=repo, revision=revision, commit=commit) for repo, revision, commit in kept
    ]
    return (*shipped, *fetched)


def pull_model(model: str, *, offline: bool = False) -> FetchedModel:
    """Fetch from the Hub what says what a model is (`ORG/NAME[@REVISION]`) and keep it.

    Raises InputError for what is no id, SourceUnavailableError where the Hub cannot be asked.
    """
    from melange_sky.hub.models import as_checkpoint, pull
    from melange_sky.hub.reference import parse_reference

    reference = parse_reference(model)
    log.info("%s: to be fetched from the Hub and kept in %s", reference, home_dir())
    kept = pull(reference, home_dir(), offline=is_offline(offline))
    return FetchedModel(
        read=read_model(as_checkpoint(kept)), commit=kept.commit, files=tuple(sorted(kept.files))
    )
