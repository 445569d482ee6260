"""One real vLLM server for the whole module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.vllm_server import VENV, make_model, vllm_server


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (VENV / "bin/vllm").exists():
        pytest.skip(f"no vLLM in {VENV}: `make test-stack` installs it")
    folder: Path = tmp_path_factory.mktemp("model") / "tiny"
    make_model(folder)
    return folder


@pytest.fixture(scope="session")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server(model, tmp_path_factory.mktemp("vllm") / "vllm.log") as url:
        yield url
