"""What prompts of a workload share: its figures, and the shared parts themselves as paths in a tree.

What counts prompts and lays out their parts is loaded when it is first asked for: a plan needs the figures alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from melange_sky.reuse.figures import Reuse, Spread

if TYPE_CHECKING:
    from melange_sky.reuse.counted import ReuseCounter, SeenPrompt
    from melange_sky.reuse.paths import PrefixPaths

_HOME = {"PrefixPaths": "paths", "ReuseCounter": "counted", "SeenPrompt": "counted"}

__all__ = ["PrefixPaths", "Reuse", "ReuseCounter", "SeenPrompt", "Spread"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found  # the next access finds it at once
    return found
