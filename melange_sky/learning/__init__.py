"""What an engine's own figures under production traffic tell of its constants, without a load test."""

from melange_sky.learning.fit import Learnt, learn
from melange_sky.learning.scrapes import COUNTERS, FOUND, GAUGES, Scrape, Sizes
from melange_sky.learning.windows import Window, windows_of

__all__ = [
    "COUNTERS",
    "FOUND",
    "GAUGES",
    "Learnt",
    "Scrape",
    "Sizes",
    "Window",
    "learn",
    "windows_of",
]
