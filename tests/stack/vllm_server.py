"""Start a real vLLM server on the CPU with the tiny model, and stop it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(os.environ.get("VLLM_VENV", ROOT / ".venv-vllm"))
START_S = 240.0

FLAGS = [
    # float32: with bfloat16 the CPU build dies of an illegal instruction on AMX machines.
    "--load-format",
    "dummy",
    "--dtype",
    "float32",
    "--enforce-eager",
    "--max-model-len",
    "2048",
    "--kv-cache-memory-bytes",
    "64M",
    "--max-num-batched-tokens",
    "1024",
    "--max-num-seqs",
    "4",
    "--no-enable-prefix-caching",
    "--distributed-executor-backend",
    "uni",
]

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # One thread: with more, the threads wait for each other on busy cores, twenty times slower.
    "OMP_NUM_THREADS": "1",
    # The first start writes the byte code that --no-compile left out; later ones are twice as fast.
    "PYTHONDONTWRITEBYTECODE": "",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def make_model(folder: Path, layers: int = 2) -> None:
    command = [VENV / "bin/python", ROOT / "tests/stack/tiny_model.py", folder, str(layers)]
    subprocess.run(command, check=True, timeout=120)


@contextlib.contextmanager
def vllm_server(
    model: Path, log: Path, *more: str, cores: frozenset[int] | None = None
) -> Iterator[str]:
    """Yield the address of a ready server that serves the model as ``tiny``.

    `more` flags override `FLAGS`; the server runs on `cores` alone, None on all.
    """
    port = free_port()
    command = [
        str(VENV / "bin/vllm"),
        "serve",
        str(model),
        "--served-model-name",
        "tiny",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *FLAGS,
        *more,
    ]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=sink,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
            preexec_fn=lambda: _settle(cores),
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _settle(cores: frozenset[int] | None) -> None:
    """In the new process: keep to the cores, and end when the test process is killed."""
    if cores is not None:
        os.sched_setaffinity(0, cores)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, urllib.error.URLError):
            if urllib.request.urlopen(address, timeout=5).status == 200:
                return
        time.sleep(0.3)
    tail = log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"vLLM did not become ready:\n{tail}")
