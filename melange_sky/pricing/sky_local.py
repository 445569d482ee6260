"""SkyPilot's own catalog folder: a file that the user has changed there is what `sky` will use.

SkyPilot keeps `~/.sky/catalogs/<schema>/<cloud>/vms.csv` (or under SKY_RUNTIME_DIR) with the MD5 of
what it downloaded in `.meta/<cloud>/vms.csv.md5`. No MD5, or another one, means that the user put
or edited the file: SkyPilot never overwrites it, and so it wins here too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from melange_sky.pricing.store import utc_text
from melange_sky.pricing.tables import Table, encode_table
from melange_sky.settings import sky_dir

LARGEST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCatalog:
    """A modified catalog: its table, where it lies, when it was changed, and the MD5 of its text."""

    table: Table
    path: Path
    changed_at: str
    md5: str

    @property
    def source(self) -> str:
        """How the source is named on offers."""
        return f"modified SkyPilot catalog {self.path}"


def catalog_folder(schema: str) -> Path:
    """Return where SkyPilot keeps its catalogs."""
    return sky_dir() / "catalogs" / schema


def modified_clouds(schema: str, clouds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the clouds whose local catalog the user has put or changed; no file is parsed."""
    folder = catalog_folder(schema)
    return tuple(cloud for cloud in clouds if _modified_md5(folder, cloud) is not None)


def _modified_md5(folder: Path, cloud: str) -> str | None:
    path = folder / cloud / "vms.csv"
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_BYTES:
            return None
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        fetched = folder / ".meta" / cloud / "vms.csv.md5"
        if fetched.exists() and fetched.read_text("utf-8").strip() == digest:
            return None
    except (OSError, UnicodeDecodeError):
        return None
    return digest


def read_modified(schema: str, cloud: str) -> LocalCatalog | None:
    """Return the modified catalog of a cloud, None where there is none.

    Raises CatalogRefusedError where the file cannot be trusted as a file.
    """
    folder = catalog_folder(schema)
    digest = _modified_md5(folder, cloud)
    if digest is None:
        return None
    from melange_sky.pricing.hosted_csv import CatalogRefusedError, parse_catalog

    path = folder / cloud / "vms.csv"
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            offers = parse_catalog(cloud, lines)
        changed = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
    except OSError as error:
        raise CatalogRefusedError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CatalogRefusedError(f"{path} is not UTF-8 text (byte {error.start})") from error
    table = Table.decode(encode_table(cloud, offers))
    return LocalCatalog(table=table, path=path, changed_at=utc_text(changed), md5=digest)
