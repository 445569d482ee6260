"""`watch.jsonl`: a line per look, each with the hash of the line before, so that a change of the past shows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

JOURNAL_FILE = "watch.jsonl"
_LARGEST_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A journal that was read: its lines, the hash of the last, and whether an unfinished line was at its end.

    `bytes` is where the last whole line ends.
    """

    lines: tuple[dict[str, Any], ...]
    last_hash: str | None
    torn: bool
    bytes: int


def line_hash(line: str) -> str:
    """Return the hash of a line without its end."""
    return hashlib.sha256(line.encode()).hexdigest()


def read_journal(path: Path) -> Told:
    """Return a journal; one that is not there yet is empty. A last line that was cut short is left out.

    Raises InputError, with the line, where it cannot be read, is no JSON or the chain of hashes is broken.
    """
    lines: list[dict[str, Any]] = []
    last: str | None = None
    end = 0
    try:
        if not path.exists():
            return Told(lines=(), last_hash=None, torn=False, bytes=0)
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"{path}: is larger than 512 MiB; move it away to begin a new one")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    for number, raw in enumerate(data.splitlines(keepends=True), 1):
        if not raw.endswith(b"\n"):
            return Told(lines=tuple(lines), last_hash=last, torn=True, bytes=end)
        lines.append(_entry(path, number, raw, last))
        last = hashlib.sha256(raw[:-1]).hexdigest()
        end += len(raw)
    return Told(lines=tuple(lines), last_hash=last, torn=False, bytes=end)


def _entry(path: Path, number: int, raw: bytes, last: str | None) -> dict[str, Any]:
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        raise InputError(f"{path}:{number}: is no JSON; the journal was changed by hand") from None
    if not isinstance(entry, dict) or entry.get("previous_hash", "") != last:
        raise InputError(
            f"{path}:{number}: does not follow from the line before: the journal was changed; "
            "move it away to begin a new one"
        )
    return entry


class Journal:
    """A journal that is written: each line is on disk before `append` returns."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that was cut short is dropped. Raises InputError."""
        self.path = path
        self._last: str | None = None
        self._bytes = 0
        self._read()

    def _read(self) -> None:
        told = read_journal(self.path)
        self._last, self._bytes = told.last_hash, told.bytes
        if told.torn:
            with self._errors(), self.path.open("r+b") as file:
                file.truncate(told.bytes)
                os.fsync(file.fileno())

    def append(self, entry: Mapping[str, Any]) -> str:
        """Write one line, `previous_hash` put last; return its hash. Raises InputError where the disk refuses.

        A line that could not be written whole is taken back. Where others wrote since, theirs come first.
        """
        if self._bytes != (self.path.stat().st_size if self.path.exists() else 0):
            self._read()
        text = json.dumps({**entry, "previous_hash": self._last}, allow_nan=False)
        with self._errors(), self.path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                left = text.encode() + b"\n"
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), start)
                raise
        self._last = line_hash(text)
        self._bytes += len(text.encode()) + 1
        return self._last

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written: {error.strerror or error}"
            ) from error
