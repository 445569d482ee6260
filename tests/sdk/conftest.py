"""The server of known timing that the profiler's tests measure."""

from tests.profiler.conftest import start_server

__all__ = ["start_server"]
