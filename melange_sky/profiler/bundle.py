"""The profiler itself, packed to travel inside a job: no upload, no bucket, no package index."""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# What `melange_sky.profiler.job` imports, nothing else; a test runs it from the bundle alone.
_PARTS = (
    "__init__.py",
    "sdk/__init__.py",
    "version.py",
    "errors.py",
    "exports.py",
    "settings.py",
    "slo.py",
    "streams.py",
    "metrics_page.py",
    "profiletable.py",
    "capacity_search",
    "profiler",
)
_LINE = 120


def bundle_text() -> str:
    """Return a tar.xz of the modules that a job needs as base64 lines; same code, same text."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for path in _files():
            entry = tarfile.TarInfo(f"melange_sky/{path.relative_to(_PACKAGE).as_posix()}")
            content = path.read_bytes()
            entry.size, entry.mtime = len(content), 0
            archive.addfile(entry, io.BytesIO(content))
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return "\n".join(text[i : i + _LINE] for i in range(0, len(text), _LINE))


def _files() -> list[Path]:
    files: list[Path] = []
    for name in _PARTS:
        part = _PACKAGE / name
        files += sorted(part.glob("*.py")) if part.is_dir() else [part]
    return files
