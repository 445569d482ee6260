"""Where the shipped files are: `templates/`, `catalogs/` and `profiling/`. Nothing else knows paths.

In a wheel they lie inside the package; in a checkout or an editable install, beside it.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _shipped(folder: str) -> Path:
    packaged = _PACKAGE / "_data" / folder
    return packaged if packaged.is_dir() else _PACKAGE.parent / folder


def templates_dir() -> Path:
    """Return the folder of SkyPilot YAML skeletons, and of what reports look like."""
    return _shipped("templates")


def catalogs_dir() -> Path:
    """Return the folder of embedded price snapshots, accelerator figures and distributions."""
    return _shipped("catalogs")


def profiling_dir() -> Path:
    """Return the folder of embedded capacity tables, calibration constants and the profiling job."""
    return _shipped("profiling")
