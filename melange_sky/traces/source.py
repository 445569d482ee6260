"""The bytes of a trace file as UTF-8 lines, whatever they are packed and written in.

What a file is, its first bytes say, not its name: gzip, Zstandard, bzip2, xz, a zip of one file; UTF-8 or
UTF-16, with a byte-order mark or without; lines that end in LF, CRLF or CR alone.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

HEAD_BYTES = 1 << 18
"""How much of a file is looked at before it is read."""

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
}
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
PARQUET = b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A trace file. `packing` is how it is packed, None for not at all; `head` is where it begins, as UTF-8."""

    path: Path
    packing: str | None
    encoding: str
    has_cr_lines: bool
    head: bytes

    @property
    def is_parquet(self) -> bool:
        """Whether the file is Apache Parquet."""
        return self.head.startswith(PARQUET)

    @property
    def written(self) -> str:
        """How the file is written, for people; empty for plain UTF-8."""
        parts = [self.encoding.upper()] if self.encoding != "utf-8" else []
        parts += [self.packing] if self.packing else []
        parts += ["CR line ends"] if self.has_cr_lines else []
        return ", ".join(parts)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file as UTF-8 with LF or CRLF line ends, from its first character."""
        with self.path.open("rb") as raw, _unpacked(raw, self.packing, self.path) as plain:
            if self.encoding == "utf-8" and not self.has_cr_lines:
                _skip_mark(plain)
                yield plain
            else:
                recoded = _Recoded(plain, self.encoding, self.has_cr_lines)
                yield cast(BinaryIO, io.BufferedReader(recoded, HEAD_BYTES))


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Tell in one line what keeps a trace from being read."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such trace file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder where a trace file is expected") from None
    except gzip.BadGzipFile:
        raise InputError(f"{path}: ends in .gz but is not gzip") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "the file is cut off"
        raise InputError(f"{path}: cannot be read ({reason})") from None


def source_of(path: Path) -> Source:
    """Look at how a file begins; raises as `reading_errors` tells."""
    with path.open("rb") as raw:
        packing = _packing(raw.read(8), path)
        raw.seek(0)
        with _unpacked(raw, packing, path) as plain:
            head = _read_up_to(plain, HEAD_BYTES)
    if head.startswith(PARQUET):
        return Source(
            path=path, packing=packing, encoding="utf-8", has_cr_lines=False, head=head[:4]
        )
    encoding, mark = _encoding(head)
    text = head[mark:].decode(encoding, errors="replace")
    has_cr_lines = "\r" in text[:-1] and "\n" not in text
    if has_cr_lines:
        text = text.replace("\r", "\n")
    return Source(
        path=path, packing=packing, encoding=encoding, has_cr_lines=has_cr_lines, head=text.encode()
    )


def _packing(magic: bytes, path: Path) -> str | None:
    found = next((name for start, name in _PACKED.items() if magic.startswith(start)), None)
    if found is None and path.suffix == ".gz" and magic:
        raise gzip.BadGzipFile
    return found


@contextmanager
def _unpacked(raw: BinaryIO, packing: str | None, path: Path) -> Iterator[BinaryIO]:
    if packing is None:
        yield raw
    elif packing == "zstd":
        import zstandard

        try:
            yield cast(BinaryIO, io.BufferedReader(_Zstandard(raw), HEAD_BYTES))
        except zstandard.ZstdError:
            raise InputError(f"{path}: cannot be read (the Zstandard data is damaged)") from None
    elif packing == "zip":
        with zipfile.ZipFile(raw) as archive, archive.open(_only_member(archive, path)) as member:
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, member)))
    else:
        opened: dict[str, Callable[[BinaryIO], object]] = {
            "gzip": gzip.open,
            "bzip2": bz2.open,
            "xz": lzma.open,
        }
        with cast(BinaryIO, opened[packing](raw)) as plain:
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, plain), HEAD_BYTES))


class _Zstandard(io.RawIOBase):
    """Zstandard frames one after the other; EOFError where the last one is cut off."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self._raw = raw
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._new()
        self._begun = False
        self._packed = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        while not self._ready:
            self._packed = self._packed or self._raw.read(HEAD_BYTES)
            if not self._packed:
                if self._begun:
                    raise EOFError
                return 0
            self._ready = self._frame.decompress(self._packed)
            self._begun, self._packed = True, b""
            if self._frame.eof:
                self._packed = self._frame.unused_data
                self._frame, self._begun = self._new(), False
        given, self._ready = self._ready[: len(view)], self._ready[len(view) :]
        view[: len(given)] = given
        return len(given)


def _only_member(archive: zipfile.ZipFile, path: Path) -> str:
    names = [item.filename for item in archive.infolist() if not item.is_dir()]
    if any(name.startswith("xl/") for name in names):
        raise InputError(f"{path}: is an Excel workbook; save its sheet as CSV")
    if len(names) != 1:
        raise InputError(
            f"{path}: is a zip archive of {len(names)} files where one trace is expected"
        )
    return names[0]


def _encoding(head: bytes) -> tuple[str, int]:
    """Return the encoding and the length of its mark."""
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name, len(mark)
    # Text of token counts is ASCII, and ASCII in UTF-16 has a zero in every other byte.
    sample = head[:4096]
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(sample) > 3 and sample[first::2].count(0) > len(sample) // 2 * 0.7:
            return name, 0
    return "utf-8", 0


def _skip_mark(file: BinaryIO) -> None:
    peek = getattr(file, "peek", None)
    if peek is not None and peek(3)[:3] == codecs.BOM_UTF8:
        file.read(3)


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


class _Recoded(io.RawIOBase):
    """Another encoding read as UTF-8 without its mark, CR line ends as LF."""

    def __init__(self, plain: BinaryIO, encoding: str, has_cr_lines: bool) -> None:
        self._plain = plain
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._has_cr_lines = has_cr_lines
        self._ready = b""
        self._is_first = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        while not self._ready:
            raw = self._plain.read(HEAD_BYTES)
            text = self._decoder.decode(raw, final=not raw)
            if self._is_first and text:
                text, self._is_first = text.removeprefix("\ufeff"), False
            if self._has_cr_lines:
                text = text.replace("\r", "\n")
            self._ready = text.encode()
            if not raw:
                break
        given, self._ready = self._ready[: len(view)], self._ready[len(view) :]
        view[: len(given)] = given
        return len(given)
