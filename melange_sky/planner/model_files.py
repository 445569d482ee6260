"""Models by the names that people write: shipped ones, kept or fetched ones of the Hub, their own files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, MelangeError, SourceUnavailableError, did_you_mean
from melange_sky.models import (
    Checkpoint,
    ModelShape,
    ReadModel,
    StoredCache,
    known_models,
    known_name,
    read_model,
    shipped_checkpoint,
)
from melange_sky.models.config_file import read_local
from melange_sky.plans import ByteCheck, ModelSource
from melange_sky.settings import home_dir

if TYPE_CHECKING:
    from melange_sky.engines import Engine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A checkpoint as it was read, with where its files are from."""

    read: ReadModel
    source: ModelSource

    @property
    def shape(self) -> ModelShape:
        """Its sizes as its files keep it."""
        return self.read.shape

    @property
    def stored_cache(self) -> StoredCache | None:
        """The KV cache that it asks for."""
        return self.read.stored_cache

    def held(self, engine: Engine, args: tuple[str, ...]) -> ModelShape:
        """Return its sizes as the engine holds it under `args`. Raises InputError where it refuses."""
        return engine.held(
            self.shape,
            args,
            own_config=self.source.kind == "file",
            stored_cache=self.stored_cache,
        )


def load_named(name: str, revision: str | None = None, *, offline: bool) -> LoadedModel:
    """Return a model by its id: a shipped one where no revision is asked for, else one of the Hub.

    Of the Hub are taken the files kept under MELANGE_SKY_HOME, else fetched ones, which are then kept.
    Raises InputError for a model that is unknown, refused or cannot be read, SourceUnavailableError
    where the Hub is needed and out of reach or forbidden.
    """
    shipped = known_name(name) if revision is None else None
    if shipped is not None:
        log.info("%s: shipped, no network is used", shipped)
        return _loaded(shipped_checkpoint(shipped), "shipped")
    return _loaded(_of_hub(name, revision, offline), "hub")


def load_file(path: Path, name: str | None = None) -> LoadedModel:
    """Return the model of a `config.json` or of the folder that holds one.

    Raises InputError where it cannot be read.
    """
    log.info("%s: a file of yours", path)
    return _loaded(read_local(path, name), "file", path=str(path))


def is_file_name(text: str) -> bool:
    """Return whether a model's name means a file, or a folder with a config.json."""
    path = Path(text)
    return text.endswith(".json") or (
        path.exists() and (path.is_file() or (path / "config.json").is_file())
    )


def load_typed(text: str, *, offline: bool) -> LoadedModel:
    """Return a model as typed on the command line: a path, `org/name` or `org/name@revision`."""
    if is_file_name(text):
        return load_file(Path(text))
    name, at, revision = text.partition("@")
    return load_named(name, revision if at else None, offline=offline)


def _of_hub(name: str, revision: str | None, offline: bool) -> Checkpoint:
    from melange_sky.hub.models import load_checkpoint
    from melange_sky.hub.reference import is_reference, parse_reference

    text = name if revision is None else f"{name}@{revision}"
    if not is_reference(text):
        if revision is not None:
            parse_reference(text)
        return shipped_checkpoint(name)  # which says what is known
    log.info("%s: a model of the Hub, looked for in %s first", text, home_dir())
    try:
        return load_checkpoint(parse_reference(text), home_dir(), offline=offline)
    except MelangeError as error:
        raise _with_hint(error, name) from error


def _with_hint(error: MelangeError, name: str) -> MelangeError:
    """Return the error with the shipped model whose name is nearest, where one is near."""
    hint = "" if known_name(name) else did_you_mean(name, known_models())
    if not hint:
        return error
    kind = InputError if isinstance(error, InputError) else SourceUnavailableError
    return kind(f"{error}{hint}")


def _loaded(checkpoint: Checkpoint, kind: str, path: str | None = None) -> LoadedModel:
    read = read_model(checkpoint)
    seen = checkpoint.tensors
    checks: tuple[ByteCheck, ...] = ()
    if seen is not None:
        checks = (
            ByteCheck(
                name="weight_bytes",
                read_bytes=round(read.counted_bytes),
                held_bytes=seen.total_bytes,
            ),
        )
    source = ModelSource(
        id=checkpoint.name,
        kind=kind,
        revision=checkpoint.revision,
        path=path,
        files=dict(checkpoint.files),
        checks=checks,
    )
    return LoadedModel(read=read, source=source)
