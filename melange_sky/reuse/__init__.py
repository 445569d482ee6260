"""What prompts of a workload share: its figures, and the shared parts themselves as paths in a tree.

What counts prompts and lays out their parts is loaded when it is first asked for: a plan needs the figures alone.
"""

from typing import TYPE_CHECKING

from melange_sky.exports import exported_from
from melange_sky.reuse.figures import Reuse, Spread

if TYPE_CHECKING:
    from melange_sky.reuse.counted import ReuseCounter, SeenPrompt
    from melange_sky.reuse.paths import PrefixPaths

_HOMES = {"PrefixPaths": "paths", "ReuseCounter": "counted", "SeenPrompt": "counted"}

__all__ = ["PrefixPaths", "Reuse", "ReuseCounter", "SeenPrompt", "Spread"]

__getattr__ = exported_from(__name__, _HOMES)
