"""Plan folders on disk: written whole or not at all, and never over somebody's work.

A manifest with each file's SHA-256 lies in the folder. A folder is *ours* while every file in it is
listed there and has the listed hash; such a folder is replaced by renaming a finished one into place.
Anything else is refused, unless `force`: then our files are replaced one by one and files that no
plan wrote are left alone. Reports and pictures of results, which say who wrote them, are kept.

Where the system can exchange two folders, a process that is killed at any moment leaves the old one
or the new one. Where it cannot, the old one is put aside first; should nobody put the new one in its
place, the next start puts the old one back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from melange_sky.errors import InputError
from melange_sky.rendering.exchange import ASIDE, STAGED, exchange, in_use, recover
from melange_sky.rendering.shown import is_shown_result

MANIFEST = ".melange-sky.json"
KEPT = (
    "backends",
    "routes.json",
    "schedule.jsonl",
    "schedule.log",
    "schedule.crontab",
    "schedule.sky.yaml",
    "watch.jsonl",
    "watch-intent.json",
    "watch-starts.json",
    "watch.log",
    "watch.crontab",
    "watch.sky.yaml",
)
"""What `apply`, `status`, `schedule` and `watch` write beside plans: no plan's work, and no reason to refuse."""
_FORMAT = 1
_MANIFEST_LIMIT = 1_000_000


def write_folder(folder: Path, files: dict[str, str], *, force: bool) -> None:
    """Write `files` (name → text) as the whole content of a plan folder.

    Raises InputError where the folder holds foreign or hand-edited files and `force` is False, where
    it is not a folder, and where it cannot be written; what was there then stays as it was.
    """
    try:
        _write(Path(os.path.realpath(folder)), files, force, shown=folder)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot write folder '{_short(folder)}': {reason}") from error


def _write(folder: Path, files: dict[str, str], force: bool, shown: Path) -> None:
    assert all(Path(name).name == name != MANIFEST for name in files)
    recover(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cannot write folder '{_short(shown)}': it is a file")
    above = next((place for place in folder.parents if place.exists()), folder)
    if not above.is_dir():
        raise InputError(f"cannot write folder '{_short(shown)}': '{_short(above)}' is a file")
    foreign = _foreign(folder) if folder.is_dir() else []
    if foreign and not force:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise InputError(
            f"folder '{_short(shown)}' holds files that no plan wrote or that were edited since: "
            f"{', '.join(map(_short, foreign[:3]))}{more}; choose another folder or pass --force"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}{STAGED}", dir=folder.parent))
    takes_place = folder.is_dir()  # of what must not be lost to a cut of power
    with in_use(staged):
        try:
            _fill(staged, files, synced=takes_place)
            if folder.is_dir() and (foreign or folder == Path(os.path.realpath(Path.cwd()))):
                _replace_files(staged, folder)
            else:
                _replace_folder(staged, folder)
            if takes_place:
                _sync(folder.parent)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _fill(staged: Path, files: dict[str, str], *, synced: bool) -> None:
    """Write all files and their manifest, with the permissions that a plain mkdir would give.

    `synced`: each is on the disk before it counts as written.
    """
    umask = os.umask(0)
    os.umask(umask)
    staged.chmod(0o777 & ~umask)
    hashes = {}
    for name, text in sorted(files.items()):
        data = text.encode("utf-8")
        _write_file(staged / name, data, synced=synced)
        hashes[name] = hashlib.sha256(data).hexdigest()
    manifest = json.dumps({"format": _FORMAT, "sha256": hashes}, indent=2) + "\n"
    _write_file(staged / MANIFEST, manifest.encode(), synced=synced)
    if synced:
        _sync(staged)


def _write_file(path: Path, data: bytes, *, synced: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        if synced:
            file.flush()
            os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Bring a folder's entries to the disk, where its file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _replace_folder(staged: Path, folder: Path) -> None:
    """Put `staged` in the place of `folder`; on failure the old one is put back."""
    if not folder.exists() or not any(folder.iterdir()):
        staged.rename(folder)
        return
    for name in _kept(folder):
        if not (staged / name).exists():
            shutil.copy2(folder / name, staged / name)
    if exchange(staged, folder):
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}{ASIDE}", dir=folder.parent))
    with in_use(folder):
        folder.rename(aside)
        try:
            staged.rename(folder)
        except BaseException:
            aside.rename(folder)
            raise
    shutil.rmtree(aside, ignore_errors=True)


def _replace_files(staged: Path, folder: Path) -> None:
    """Move the staged files over those of an earlier plan; the manifest goes last."""
    listed = _listed(folder) or {}
    fresh = {path.name for path in staged.iterdir()}
    blocked = [name for name in sorted(fresh) if (folder / name).is_dir()]
    if blocked:
        raise InputError(f"cannot write '{_short(folder / blocked[0])}': a folder is in its place")
    for name in [*sorted(fresh - {MANIFEST}), MANIFEST]:
        (staged / name).replace(folder / name)
    for name in sorted(set(listed) - fresh):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            (folder / name).unlink()


def _kept(folder: Path) -> list[str]:
    """Return the names of the files beside a plan that stay when it is replaced."""
    shown = [path.name for path in folder.iterdir() if is_shown_result(path)]
    return [*(name for name in KEPT if _is_plain(folder / name)), *sorted(shown)]


def _foreign(folder: Path) -> list[str]:
    """Return the names in `folder` that no plan wrote or that were edited since, sorted."""
    ours = {MANIFEST, *_kept(folder)}
    present = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    listed = _listed(folder)
    if listed is None:
        manifest_only = not present and (folder / MANIFEST).exists()
        return [MANIFEST] if manifest_only else present
    return [name for name in present if _hash(folder / name) != listed.get(name, "")]


def _listed(folder: Path) -> dict[str, str] | None:
    """Return the manifest's hashes by file name, None where there is no valid manifest."""
    path = folder / MANIFEST
    try:
        if path.is_symlink() or path.stat().st_size > _MANIFEST_LIMIT:
            return None
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    hashes = document.get("sha256") if isinstance(document, dict) else None
    if not isinstance(hashes, dict):
        return None
    names_are_plain = all(Path(name).name == name for name in hashes)
    return {name: str(value) for name, value in hashes.items()} if names_are_plain else None


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _hash(path: Path) -> str | None:
    """Return a regular file's SHA-256, None for anything else."""
    if not _is_plain(path):
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _short(name: object) -> str:
    text = "".join(c if c.isprintable() else "?" for c in str(name))
    return text if len(text) <= 120 else f"…{text[-119:]}"
