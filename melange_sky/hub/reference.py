"""A model's id as users write it: `org/name`, perhaps with a revision."""

from __future__ import annotations

import re
from dataclasses import dataclass

from melange_sky.errors import InputError

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class ModelReference:
    """`repo` is `org/name`; `revision` a branch, a tag or a commit."""

    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        """The id as people write it."""
        return self.repo if self.revision == "main" else f"{self.repo}@{self.revision}"


def parse_reference(text: str) -> ModelReference:
    """Read `org/name` or `org/name@revision`; raise InputError for anything else.

    >>> parse_reference("Qwen/Qwen3-8B@refs/pr/1")
    ModelReference(repo='Qwen/Qwen3-8B', revision='refs/pr/1')
    """
    repo, at, revision = text.partition("@")
    parts = repo.split("/")
    if len(parts) != 2 or not all(_is_part(part) for part in parts):
        raise InputError(
            f"'{text[:120]}' is not the id of a model on the Hugging Face Hub: org/name or org/name@revision"
        )
    if not at:
        return ModelReference(repo)
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision:
        raise InputError(f"'{text[:120]}': '{revision[:60]}' is not a revision")
    return ModelReference(repo, revision)


def is_reference(text: str) -> bool:
    """Return whether a text has the form of an id."""
    try:
        parse_reference(text)
    except InputError:
        return False
    return True


def _is_part(part: str) -> bool:
    return bool(_PART.fullmatch(part)) and ".." not in part and "--" not in part
