"""A server of known timing in its own process, ended with its test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

StartServer = Callable[..., str]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start a server with options such as ttft=0.05 and return its address."""
    started: list[subprocess.Popen[str]] = []

    def start(**options: object) -> str:
        words = [f"--{name}={value}" for name, value in options.items()]
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("known_server.py")), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return f"http://127.0.0.1:{int(process.stdout.readline())}"

    yield start
    for process in started:
        process.communicate(timeout=10)
