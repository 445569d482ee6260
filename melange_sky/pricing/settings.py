"""Where SkyPilot's hosted catalogs are, and how the environment says otherwise."""

from __future__ import annotations

import os
from dataclasses import dataclass

SCHEMA = "v8"
BASE_URL = "https://raw.githubusercontent.com/skypilot-org/skypilot-catalog/master/catalogs"
MIRROR_URL = "https://skypilot-catalog.s3.us-east-1.amazonaws.com/catalogs"
"""SkyPilot 0.14's hosted catalogs and their mirror (`sky/skylet/constants.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the hosted catalogs are: `<base>/<schema>/<cloud>/vms.csv`."""

    base: str = BASE_URL
    mirror: str | None = MIRROR_URL
    schema: str = SCHEMA

    def of(self, cloud: str) -> tuple[str, ...]:
        """Return the file's addresses, preferred first."""
        bases = (self.base,) if self.mirror is None else (self.base, self.mirror)
        return tuple(f"{base}/{self.schema}/{cloud}/vms.csv" for base in bases)


def addresses_from_environment() -> Addresses:
    """Return the addresses that MELANGE_SKY_CATALOG_URL and _SCHEMA name (a URL disables the mirror)."""
    base = os.environ.get("MELANGE_SKY_CATALOG_URL")
    schema = os.environ.get("MELANGE_SKY_CATALOG_SCHEMA") or SCHEMA
    if base:
        return Addresses(base=base.rstrip("/"), mirror=None, schema=schema)
    return Addresses(schema=schema)
