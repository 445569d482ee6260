"""Every test has its own empty home: no cache of another run, none of the user's tables."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Return the empty home."""
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
