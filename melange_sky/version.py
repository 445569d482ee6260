"""The version, in a module of its own: whatever names it must not load the whole library."""

__version__ = "0.1.0"
