"""The scripts of profiling/, imported as they are run."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from melange_sky.resources import profiling_dir


def script(name: str) -> ModuleType:
    """Import a script of profiling/ as it is run: with its folder on the path."""
    folder = str(profiling_dir())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, profiling_dir() / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
