"""Defaults of configuration classes, which stand in for what a section leaves out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from melange_sky.resources import catalogs_dir


@lru_cache(maxsize=1)
def _defaults() -> dict[str, dict[str, Any]]:
    document = json.loads((catalogs_dir() / "config_defaults.json").read_text(encoding="utf-8"))
    defaults: dict[str, dict[str, Any]] = document["defaults"]
    return defaults


def class_defaults(model_type: str) -> Mapping[str, Any]:
    """Return the defaults of the `transformers` class of a model type, empty where there is none."""
    return _defaults().get(model_type, {})
