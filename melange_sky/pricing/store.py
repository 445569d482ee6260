"""The store of price snapshots: dated, immutable, content-checked, pruned by a stated rule.

    <home>/prices/snapshots/000012-20261121T022006Z.json   one manifest per refresh
    <home>/prices/tables/aws-<hash>.json                   one table per distinct content

A manifest says, per cloud, where and when its rows were fetched and which table holds them. Files
are written to temporary files and renamed, never changed after; the newest manifest by its number is the current
one, so a clock that goes backwards cannot hide a newer pull. Kept are the newest 30 manifests and
the last of each day for 90 days; tables that no manifest names are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError, did_you_mean
from melange_sky.pricing.tables import Table
from melange_sky.settings import prices_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEEP_NEWEST = 30
KEEP_DAYS = 90
LOCK_WAIT_S = 15.0
_LEFTOVER_AFTER_S = 3600.0
_ID = re.compile(r"\d{6}-\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One cloud in a snapshot. Times are ISO 8601 UTC; `sha256` is of the body as received.

    `fetched_at` is when the body came, `checked_at` when the server last said that it still holds.
    `regions` are the only ones that were asked for or that the source lists, None for the whole cloud.
    """

    source: str
    label: str
    url: str
    fetched_at: str
    checked_at: str
    sha256: str
    table: str
    offers: int
    parser: int
    etag: str | None = None
    last_modified: str | None = None
    as_of: str | None = None
    regions: tuple[str, ...] | None = None

    def covers(self, regions: frozenset[str] | None) -> bool:
        """Return whether it stands for these regions; None means the whole cloud."""
        return self.regions is None or (regions is not None and regions <= set(self.regions))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One snapshot: its id, when it was made, and an entry per cloud.

    `absent` holds, per cloud without a hosted catalog, when that was last found out.
    """

    id: str
    created_at: str
    clouds: Mapping[str, Entry] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def sequence(self) -> int:
        """The number that orders snapshots, whatever the clock says."""
        return int(self.id.partition("-")[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a refresh adds: entries by cloud, bytes of tables that may be new, clouds not hosted."""

    entries: Mapping[str, Entry]
    tables: Mapping[str, bytes]
    absent: tuple[str, ...] = ()


def utc_text(moment: datetime) -> str:
    """Return ISO 8601 in UTC to the second.

    >>> utc_text(datetime(2026, 11, 21, 2, 20, tzinfo=timezone.utc))
    '2026-11-21T02:20:00Z'
    """
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """Snapshots in one folder. Reading needs no lock and no right to write."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = prices_dir() if folder is None else folder
        self._snapshots = self.folder / "snapshots"
        self._tables = self.folder / "tables"

    def ids(self) -> list[str]:
        """Return the ids of all snapshots, oldest first."""
        try:
            names = [path.stem for path in self._snapshots.iterdir() if path.suffix == ".json"]
        except OSError:
            return []
        return sorted(name for name in names if _ID.fullmatch(name))

    def newest(self) -> Manifest | None:
        """Return the newest readable snapshot, None where there is none."""
        for snapshot_id in reversed(self.ids()):
            manifest = self._read(snapshot_id)
            if manifest is not None:
                return manifest
        return None

    def before(self, manifest: Manifest) -> Iterator[Manifest]:
        """Yield the readable snapshots before this one, newest first."""
        for snapshot_id in reversed(self.ids()):
            if snapshot_id < manifest.id:
                older = self._read(snapshot_id)
                if older is not None:
                    yield older

    def find(self, text: str) -> Manifest:
        """Return the snapshot of an id, or the last one made by a date or time (ISO 8601, UTC).

        A date means its whole day. Raises InputError where there is none.
        """
        snapshot_id = text.partition("+")[0]
        if _ID.fullmatch(snapshot_id):
            manifest = self._read(snapshot_id)
            if manifest is None:
                hint = did_you_mean(snapshot_id, self.ids())
                raise InputError(f"no snapshot '{snapshot_id}' in {self.folder}{hint}")
            return manifest
        until = _end_of(text)
        for candidate in reversed(self.ids()):
            manifest = self._read(candidate)
            if manifest is not None and manifest.created_at <= until:
                return manifest
        raise InputError(f"no snapshot of {text[:40]} or before in {self.folder}: {self._span()}")

    def _span(self) -> str:
        ids = self.ids()
        return (
            f"the store holds {ids[0]} to {ids[-1]}" if ids else "no prices have been fetched yet"
        )

    def data(self, entry: Entry) -> bytes | None:
        """Return the bytes of an entry's table, None where it is gone or damaged."""
        try:
            data = (self._tables / entry.table).read_bytes()
        except OSError:
            return None
        return data if _digest(data) in entry.table else None

    def table(self, entry: Entry) -> Table | None:
        """Return the table of an entry, None where it is gone, damaged or of another version."""
        data = self.data(entry)
        if data is None:
            return None
        try:
            return Table.decode(data)
        except (ValueError, KeyError):
            return None

    def _read(self, snapshot_id: str) -> Manifest | None:
        try:
            document = json.loads((self._snapshots / f"{snapshot_id}.json").read_text("utf-8"))
            clouds = {name: _entry(entry) for name, entry in document["clouds"].items()}
            return Manifest(
                id=snapshot_id,
                created_at=document["created_at"],
                clouds=clouds,
                absent=dict(document["absent"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def commit(self, update: Update, now: datetime) -> Manifest:
        """Add a snapshot: the newest one with the update's entries put in. Raises OSError.

        Two processes may commit at once: each builds on what the other has written.
        """
        self._snapshots.mkdir(parents=True, exist_ok=True)
        self._tables.mkdir(parents=True, exist_ok=True)
        with self._locked():
            for name, data in update.tables.items():
                if not self._holds(name, data):
                    _write(self._tables / name, data)
            base = self.newest()
            clouds = dict(base.clouds) if base else {}
            clouds.update(
                {c: e for c, e in update.entries.items() if (self._tables / e.table).exists()}
            )
            absent = {
                **(base.absent if base else {}),
                **dict.fromkeys(update.absent, utc_text(now)),
            }
            absent = {c: absent[c] for c in sorted(absent) if c not in clouds}
            last = self.ids()
            sequence = int(last[-1][:6]) + 1 if last else 1
            stamp = now.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            manifest = Manifest(
                id=f"{sequence:06d}-{stamp}",
                created_at=utc_text(now),
                clouds=clouds,
                absent=absent,
            )
            document = {
                "created_at": manifest.created_at,
                "clouds": _as_json(clouds),
                "absent": absent,
            }
            _write(self._snapshots / f"{manifest.id}.json", json.dumps(document, indent=1).encode())
            with contextlib.suppress(OSError):
                self._prune(now)
        return manifest

    def _holds(self, name: str, data: bytes) -> bool:
        try:
            return (self._tables / name).read_bytes() == data
        except OSError:
            return False

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        import filelock

        lock = filelock.FileLock(self.folder / ".lock", timeout=LOCK_WAIT_S)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise OSError(
                None, f"another process held the price store for {LOCK_WAIT_S:g} s"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _prune(self, now: datetime) -> None:
        ids = self.ids()
        keep = set(ids[-KEEP_NEWEST:])
        oldest = utc_text(now - timedelta(days=KEEP_DAYS))
        last_of_day = {i[7:15]: i for i in ids}  # ids are sorted: the last one of a day stays
        for snapshot_id in last_of_day.values():
            manifest = self._read(snapshot_id)
            if manifest is not None and manifest.created_at >= oldest:
                keep.add(snapshot_id)
        for snapshot_id in ids:
            if snapshot_id not in keep:
                (self._snapshots / f"{snapshot_id}.json").unlink(missing_ok=True)
        self._prune_tables([i for i in ids if i in keep])

    def _prune_tables(self, kept_ids: list[str]) -> None:
        manifests = [self._read(i) for i in kept_ids]
        if any(manifest is None for manifest in manifests):
            return  # a manifest that cannot be read may name any table
        named = {e.table for m in manifests if m is not None for e in m.clouds.values()}
        for path in self._tables.iterdir():
            if path.suffix == ".json" and path.name not in named:
                path.unlink(missing_ok=True)
        for path in (*self._tables.glob("*.tmp"), *self._snapshots.glob("*.tmp")):
            if time.time() - path.stat().st_mtime > _LEFTOVER_AFTER_S:
                path.unlink(missing_ok=True)


def table_name(cloud: str, data: bytes) -> str:
    """Return the file name of a table: its cloud and the hash of its content."""
    return f"{cloud}-{_digest(data)}.json"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]


def _entry(document: Mapping[str, Any]) -> Entry:
    """An entry as stored; those of older versions have no regions."""
    regions = document.get("regions")
    return Entry(**{**document, "regions": None if regions is None else tuple(regions)})


def _as_json(clouds: Mapping[str, Entry]) -> dict[str, Any]:
    return {name: asdict(clouds[name]) for name in sorted(clouds)}


def _end_of(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InputError(
            f"'{text[:40]}' is neither a snapshot id nor a date such as 2026-11-21"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        moment += timedelta(days=1, seconds=-1)
    return utc_text(moment)


def _write(path: Path, data: bytes) -> None:
    """Write to a temporary file and rename it, so that a reader sees the whole file or none."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def renewed(entry: Entry, checked_at: str) -> Entry:
    """Return the entry of a file that the server says is unchanged."""
    return replace(entry, checked_at=checked_at)
