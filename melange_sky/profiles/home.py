"""Where the user's own tables and the cache of estimates lie."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home_dir() -> Path:
    """Return the folder of caches and profiles (MELANGE_SKY_HOME, else the platform's)."""
    return Path(os.environ.get("MELANGE_SKY_HOME") or platformdirs.user_data_dir("melange-sky"))


def profiles_home() -> Path:
    """Return where the user's own profile tables are kept."""
    return home_dir() / "profiles"
