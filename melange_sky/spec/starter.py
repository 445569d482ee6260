"""The starter spec that `melange-sky init` writes: `templates/starter-spec.yaml`."""

from __future__ import annotations

from melange_sky.resources import templates_dir


def starter_text() -> str:
    """Return the commented starter spec."""
    return (templates_dir() / "starter-spec.yaml").read_text(encoding="utf-8")
