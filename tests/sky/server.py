"""An API server of SkyPilot alone, with stand-in clouds: no Slurm, no nodes, a home and ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sky.bed import HERE, _end_while_any, _target

START_LIMIT_S = 120


@dataclass
class ApiServer:
    """A server under `home`; `config` and `plugins` are its two files' contents, `more_code` runs in
    each of its Python processes first.
    """

    home: Path
    config: Mapping[str, Any]
    plugins: list[dict[str, Any]]
    more_code: str = ""
    port: int = 0
    metrics_port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.home / "server.log"

    @property
    def seen(self) -> Path:
        """Return the file of what policy and validator were asked."""
        return self.home / "seen.jsonl"

    @property
    def env(self) -> dict[str, str]:
        """Return the whole environment of the server and its clients."""
        paths = (self.home / "site", HERE.parent.parent)
        return {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "STAND_INS_LOG": str(self.seen),
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(self.port),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.port, self.metrics_port = _free_ports()
        site = self.home / "site"
        site.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "hooks.py", site / "stand_in_hooks.py")
        shutil.copy(HERE / "stand_ins.py", site / "stand_ins.py")
        (site / "sitecustomize.py").write_text(f"import stand_in_hooks\n{self.more_code}\n")
        sky = self.home / ".sky"
        sky.mkdir(exist_ok=True)
        (sky / "config.yaml").write_text(json.dumps(self.config))  # JSON is YAML
        (sky / "plugins.yaml").write_text(json.dumps({"plugins": self.plugins}))
        more = {"IS_SKYPILOT_SERVER": "true", "SKY_API_SERVER_METRICS_ENABLED": "true"}
        words = (f"--port={self.port}", f"--metrics-port={self.metrics_port}", "--host=127.0.0.1")
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", "sky.server.server", *words],
                env={**self.env, **more},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        until = time.monotonic() + START_LIMIT_S
        while not self._answers():
            assert self.process.poll() is None, f"the server ended:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < until, f"no answer:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.3)

    def stop(self) -> None:
        """End the server with its executors and controllers: what has its home in its environment or open."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        mark, inside = f"HOME={self.home}".encode(), f"{self.home}/"

        def belongs(process: Path) -> bool:
            if mark in (process / "environ").read_bytes().split(b"\0"):
                return True
            return any(_target(entry).startswith(inside) for entry in (process / "fd").iterdir())

        _end_while_any(belongs)
        self.process.wait(timeout=10)

    def asked(self) -> list[dict[str, Any]]:
        """Return what policy and validator were asked, in order."""
        lines = self.seen.read_text().splitlines() if self.seen.exists() else []
        return [json.loads(line) for line in lines]

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
        """Return status and body of one request."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            headers={k.replace("_", "-"): v for k, v in headers.items()},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def run(self, *words: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        """Run a command as a client of this server; nothing is asserted."""
        return subprocess.run(
            words,
            env=self.env,
            cwd=self.home,
            text=True,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def _answers(self) -> bool:
        try:
            return self.get("/api/health")[0] == 200
        except OSError:
            return False


@contextlib.contextmanager
def api_server(
    home: Path, config: Mapping[str, Any], plugins: list[dict[str, Any]], more_code: str = ""
) -> Iterator[ApiServer]:
    """Yield a running server and end it with all it started."""
    home.mkdir(parents=True, exist_ok=True)
    server = ApiServer(home, config, plugins, more_code)
    try:
        server.start()
        yield server
    except BaseException:
        if server.log.exists():
            print(f"==> server.log\n{server.log.read_text(errors='replace')[-4000:]}", flush=True)
        raise
    finally:
        server.stop()


def _free_ports() -> tuple[int, int]:
    """Return two ports below those that connections take; the first has its queue's free too.

    SkyPilot's queue follows the server's port (`sky/server/requests/queues/mp_queue.py`).
    """
    found = (port for port in range(21000 + os.getpid() % 2000, 29000) if _is_free(port))
    first = next(port for port in found if _is_free(50000 + (port - 46580 + 11) % 10000))
    return first, next(found)


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
