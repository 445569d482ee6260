"""Every test has a home of its own and no network but loopback."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # that is the machine, not the case
)
hypothesis.settings.load_profile("repeatable")

if TYPE_CHECKING:
    from tests.hub.server import HubServer


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that this run's workers have in common."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New folders. pytest numbers its own by what is there, which thousands of them make slow."""
    above = tmp_path_factory.mktemp("homes")
    return (above / str(n) for n in itertools.count())


@pytest.fixture(autouse=True)
def own_home(
    _homes: Iterator[Path], _shared: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Keep the caches of the person who runs the tests out of them, but for machine code that other tests made."""
    home = next(_homes)
    home.mkdir()
    for name in (
        "MELANGE_SKY_OFFLINE",
        "MELANGE_SKY_CATALOG_URL",
        "SOURCE_DATE_EPOCH",
        "SKY_RUNTIME_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MELANGE_SKY_HOME", str(home / "melange-sky"))
    monkeypatch.setenv("HOME", str(home))
    made, code = _shared / "code", home / "melange-sky" / "code"
    _link(made, code)
    yield home
    _link(code, made)


def _link(there: Path, here: Path) -> None:
    """Have the machine code of one folder in another, too: it is kept by content."""
    for file in there.glob("*.o"):
        here.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            (here / file.name).hardlink_to(file)


@pytest.fixture
def kept_estimates(_shared: Path, own_home: Path) -> None:
    """Share simulated capacities between the tests that ask for it: they are cached by content."""
    estimates = _shared / "estimates"
    estimates.mkdir(exist_ok=True)
    home = own_home / "melange-sky"
    home.mkdir(exist_ok=True)
    (home / "estimates").symlink_to(estimates)


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a connection to anything but this machine fail at once."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise OSError(f"tests open no connection to {address[0]}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    yield


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub of its own on the loopback, asked without a token."""
    from tests.hub.server import HubServer

    server = HubServer()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    yield server
    server.close()
