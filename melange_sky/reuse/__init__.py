"""What prompts of a workload share: its figures, and the shared parts themselves as paths in a tree."""

from melange_sky.reuse.counted import ReuseCounter, SeenPrompt
from melange_sky.reuse.figures import Reuse, Spread
from melange_sky.reuse.paths import PrefixPaths

__all__ = ["PrefixPaths", "Reuse", "ReuseCounter", "SeenPrompt", "Spread"]
