"""How models are shown: one as it was read, and the list of those that need no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from melange_sky.models.document import model_document, model_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.models import ReadModel

__all__ = ["list_document", "list_text", "model_document", "model_text", "pulled_note"]


class KnownModelView(Protocol):
    """A model that needs no network, see `planner.models.KnownModel`."""

    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def commit(self) -> str | None: ...


class FetchedModelView(Protocol):
    """A model that was fetched, see `planner.models.FetchedModel`."""

    @property
    def read(self) -> ReadModel: ...
    @property
    def commit(self) -> str: ...
    @property
    def files(self) -> Sequence[str]: ...


def list_text(models: Sequence[KnownModelView]) -> str:
    """Return a model a line."""
    lines = [
        m.model
        if m.commit is None
        else f"{m.model}@{m.revision}  (fetched, commit {m.commit[:12]})"
        for m in models
    ]
    return "".join(f"{line}\n" for line in lines)


def list_document(models: Sequence[KnownModelView]) -> list[dict[str, Any]]:
    """Return the models for `models list --format json`; `revision` is the commit that is kept."""
    return [
        {
            "model": m.model,
            "revision": m.commit,
            "source": "shipped" if m.commit is None else f"Hub, {m.revision}",
        }
        for m in models
    ]


def pulled_note(pulled: FetchedModelView) -> str:
    """Return which files of which commit are kept now, in a sentence."""
    name = pulled.read.checkpoint.name
    return f"{name}: kept {', '.join(pulled.files)} of commit {pulled.commit}"
