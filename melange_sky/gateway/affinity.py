"""What requests are kept together at a replica for."""

from __future__ import annotations

from enum import Enum


class Affinity(str, Enum):
    """By what requests are kept together: nothing, their session, or how their prompts begin."""

    OFF = "off"
    SESSION = "session"
    PREFIX = "prefix"
