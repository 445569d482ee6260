"""Where fetched files are kept: by commit, so that a moved branch changes nothing that was read before.

<home>/models/<org>--<name>/refs/<revision>.json   {"commit": …}
<home>/models/<org>--<name>/<commit>/…             the files, and manifest.json with their SHA-256
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from melange_sky.errors import InputError
from melange_sky.hub.reference import COMMIT, ModelReference

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptModel:
    """The files of one commit: name → bytes, and what the weight files hold."""

    repo: str
    commit: str
    files: Mapping[str, bytes]
    totals: Mapping[str, Any] | None
    gated: bool = False

    @property
    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of each file."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}


class ModelStore:
    """The kept models under `home`."""

    def __init__(self, home: Path) -> None:
        self._root = home / "models"

    def _folder(self, repo: str) -> Path:
        return self._root / repo.replace("/", "--")

    def commit_of(self, reference: ModelReference) -> str | None:
        """Return the commit that a revision was when it was last fetched."""
        if COMMIT.fullmatch(reference.revision):
            return reference.revision
        path = self._ref(reference)
        try:
            commit = json.loads(path.read_text(encoding="utf-8"))["commit"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None

    def _ref(self, reference: ModelReference) -> Path:
        return self._folder(reference.repo) / "refs" / f"{quote(reference.revision, safe='')}.json"

    def load(self, reference: ModelReference) -> KeptModel | None:
        """Return what is kept of a model, None where nothing is.

        Raises InputError where a kept file is not what was fetched.
        """
        commit = self.commit_of(reference)
        if commit is None:
            return None
        folder = self._folder(reference.repo) / commit
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            names = dict(manifest["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        files = {
            str(name): self._checked(folder, str(name), digest) for name, digest in names.items()
        }
        totals = manifest.get("totals")
        return KeptModel(
            repo=reference.repo,
            commit=commit,
            files=files,
            totals=totals if isinstance(totals, Mapping) else None,
            gated=bool(manifest.get("gated", False)),
        )

    def _checked(self, folder: Path, name: str, digest: object) -> bytes:
        path = folder / name
        if path.parent != folder:
            raise InputError(f"{folder / MANIFEST}: '{name[:60]}' is no file of this folder")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read: {error.strerror or error}; fetch it again: melange-sky models pull"
            ) from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise InputError(
                f"{path}: is not what was fetched; fetch it again: melange-sky models pull"
            )
        return data

    def save(self, model: KeptModel, reference: ModelReference) -> Path:
        """Keep a model and remember which commit its revision is; return its folder."""
        folder = self._folder(model.repo) / model.commit
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in model.files.items():
                _write(folder / name, data)
            manifest = {"files": model.hashes, "totals": model.totals, "gated": model.gated}
            _write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
            ref = self._ref(reference)
            ref.parent.mkdir(parents=True, exist_ok=True)
            _write(ref, json.dumps({"commit": model.commit}).encode())
        except OSError as error:
            raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from error
        return folder

    def kept(self) -> list[tuple[str, str, str]]:
        """Return (repo, revision, commit) of every revision that was fetched."""
        found = []
        for ref in sorted(self._root.glob("*/refs/*.json")):
            org, _, name = ref.parent.parent.name.partition("--")
            from urllib.parse import unquote

            reference = ModelReference(f"{org}/{name}", unquote(ref.stem))
            commit = self.commit_of(reference)
            if commit is not None:
                found.append((reference.repo, reference.revision, commit))
        return found


def _write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
