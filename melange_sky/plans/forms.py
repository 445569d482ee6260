"""In which form a model is held, and where its sizes were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from melange_sky.models import ModelShape  # known while it runs, so that plan.json can be checked


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCheck:
    """Bytes that a config was read as, held against what the checkpoint's own files hold."""

    name: str
    read_bytes: int
    held_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the sizes of a model were read.

    `kind`: "shipped" with the project, "hub", or a "file" of the user's at `path`. `revision` is the
    commit of the Hub that replicas run too, None where none is known. `files` holds the SHA-256 of
    each file that was read; `checks` what these were held against.
    """

    id: str
    kind: str
    revision: str | None = None
    path: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[ByteCheck, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelForm:
    """One form in which a model may be held: a checkpoint of it, and what the engine makes of that.

    `name` is the end of its options' names. `quantization` is the value of the engine's flag that it
    adds, None for the weights as the checkpoint keeps them; `shape` are the sizes that follow.
    """

    name: str
    checkpoint: str
    quantization: str | None
    shape: ModelShape
    source: ModelSource
