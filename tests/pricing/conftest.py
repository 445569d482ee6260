"""A home of its own, a loopback server and the command line, for every test of prices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from melange_sky.cli import main
from tests.pricing.server import Loopback, loopback


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of the machine is read or written: cache, SkyPilot's folder and settings are new."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MELANGE_SKY_HOME", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SKY_RUNTIME_DIR", "MELANGE_SKY_OFFLINE", "MELANGE_SKY_CATALOG_SCHEMA"):
        monkeypatch.delenv(name, raising=False)
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    with loopback() as running:
        monkeypatch.setenv("MELANGE_SKY_CATALOG_URL", running.url)
        yield running


@dataclass(frozen=True)
class Ran:
    """What a command did: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def call(*arguments: str) -> Ran:
        capsys.readouterr()
        code = 0
        try:
            main(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call
