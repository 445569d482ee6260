"""The terms that were pulled: a store of their own, beside that of prices and like it.

A pull of prices from a catalog, which lists no terms, must not lose them; and each part of a list is replaced by
itself, so that one file that fails costs no other.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.pricing.commitments.table import decode_terms, encode_terms, merge_parts
from melange_sky.pricing.store import LOCK_WAIT_S, Entry, Store, Update, table_name, utc_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from melange_sky.pricing.commitments.sheet import TermPart
    from melange_sky.pricing.commitments.table import KeptTerm

FOLDER = "terms"
VANISHED_FRACTION = 0.2
"""Reported where more than this fraction of a part's terms is gone since the pull before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledTerms:
    """What a pull of terms came to: how many came per cloud, parts that failed with the reason, doubts."""

    came: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    vanished: Mapping[str, str] = field(default_factory=dict)
    store_problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TermSource:
    """The parts of one cloud's list, and how its source is called and addressed."""

    name: str
    label: str
    url: str
    parts: tuple[TermPart, ...]


class TermStore:
    """Terms by cloud, dated, each pull kept; `store` is that of prices."""

    def __init__(self, store: Store) -> None:
        self._store = Store(store.folder / FOLDER)

    def newest(self) -> dict[str, tuple[KeptTerm, ...]]:
        """Return the terms at hand by cloud; a damaged table is passed over for the last good one."""
        newest = self._store.newest()
        pulls = {cloud: next(self._pulls(cloud), None) for cloud in newest.clouds} if newest else {}
        return {cloud: pull[1] for cloud, pull in pulls.items() if pull is not None}

    def earlier(self, cloud: str, most: int) -> Iterator[tuple[str, tuple[KeptTerm, ...]]]:
        """Yield the day and the terms of each pull of a cloud but the newest, newest first."""
        yield from itertools.islice(self._pulls(cloud), 1, most + 1)

    def _pulls(self, cloud: str) -> Iterator[tuple[str, tuple[KeptTerm, ...]]]:
        newest = self._store.newest()
        if newest is None:
            return
        told: set[str] = set()
        for manifest in itertools.chain([newest], self._store.before(newest)):
            entry = manifest.clouds.get(cloud)
            if entry is None or entry.table in told:
                continue
            told.add(entry.table)
            terms = self._read(entry)
            if terms is not None:
                yield entry.fetched_at[:10], terms

    def _read(self, entry: Entry) -> tuple[KeptTerm, ...] | None:
        data = self._store.data(entry)
        try:
            return None if data is None else decode_terms(data)
        except (ValueError, KeyError, TypeError):
            return None

    def keep(self, sources: Mapping[str, TermSource], now: datetime) -> PulledTerms:
        """Put what came into the store, in place of what it replaces. Never raises for a full disk.

        Another process that pulls other regions of a cloud waits: each builds on what the other has kept.
        """
        if not sources:
            return PulledTerms()
        try:
            with self._held():
                return self._keep(sources, now)
        except OSError as error:
            problem = f"cannot write to {self._store.folder}: {error.strerror or error}"
            return replace(_failed_parts(sources), store_problem=problem)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        import filelock

        self._store.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self._store.folder / ".pull.lock", timeout=LOCK_WAIT_S)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise OSError(None, f"another pull held it for {LOCK_WAIT_S:g} s") from error
        try:
            yield
        finally:
            lock.release()

    def _keep(self, sources: Mapping[str, TermSource], now: datetime) -> PulledTerms:
        at_hand = self.newest()
        stamp = utc_text(now)
        entries, tables = {}, {}
        came: dict[str, int] = {}
        vanished: dict[str, str] = {}
        for cloud, source in sources.items():
            if all(part.problem is not None for part in source.parts):
                continue
            merged = merge_parts(at_hand.get(cloud, ()), source.parts, source.label, stamp)
            came[cloud] = sum(len(part.rows) for part in source.parts)
            lost = [
                f"{gone} of {before} {name} are gone"
                for name, (gone, before) in merged.gone.items()
                if gone > VANISHED_FRACTION * before
            ]
            if lost:
                vanished[cloud] = "; ".join(lost)
            data = encode_terms(cloud, merged.kept)
            name = table_name(cloud, data)
            tables[name] = data
            entries[cloud] = Entry(
                source=source.name,
                label=source.label,
                url=source.url,
                fetched_at=stamp,
                checked_at=stamp,
                sha256="",
                table=name,
                offers=len(merged.kept),
                parser=1,
            )
        if entries:
            self._store.commit(Update(entries=entries, tables=tables), now)
        return replace(_failed_parts(sources), came=came, vanished=vanished)


def _failed_parts(sources: Mapping[str, TermSource]) -> PulledTerms:
    """Return what a pull could not bring, whatever becomes of the rest."""
    return PulledTerms(
        failed={
            f"{cloud} {part.name} {part.region}".strip(): part.problem
            for cloud, source in sources.items()
            for part in source.parts
            if part.problem is not None
        }
    )
