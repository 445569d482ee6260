"""The command as a process: its signals, its files, its keys, and what it says to wrong use."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from melange_sky.engines import EngineChoice
from melange_sky.planfile import dump_plan
from melange_sky.planner.backends import replica_urls
from melange_sky.skyserve import LiveReplica, LiveService
from tests.gateway.bed import MODEL, split_plan

KEY, REPLICA_KEY = "sk-client-3141", "sk-replica-2718"


class Handler(BaseHTTPRequestHandler):
    """Answers like a replica; `slow_s` and what was seen stand in the server."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(self.headers["Authorization"])  # type: ignore[attr-defined]
        time.sleep(self.server.slow_s)  # type: ignore[attr-defined]
        usage = {"prompt_tokens": 40, "completion_tokens": 3}
        self._answer({"choices": [], "usage": usage, "served_by": self.server.server_port})  # type: ignore[attr-defined]

    def _answer(self, document: dict[str, Any]) -> None:
        text = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def replica() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.slow_s = [], 0.0  # type: ignore[attr-defined]
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def url(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


class Running:
    """A gateway process; its standard error is read to find the port, and kept."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "melange_sky", "-v", "gateway", *arguments, "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | env,
        )
        assert self.process.stderr is not None
        self.said = ""
        for line in self.process.stderr:
            self.said += line
            found = re.search(r"listening on (\S+)", line)
            if found:
                self.url = found.group(1)
                break
        else:
            raise AssertionError(self.said)

    def ask(
        self, context: ssl.SSLContext | None = None, key: str = KEY, words: int = 5
    ) -> dict[str, Any]:
        body = json.dumps({"model": MODEL, "prompt": "word " * words, "max_tokens": 3}).encode()
        request = urllib.request.Request(
            f"{self.url}/v1/completions", data=body, headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=20, context=context) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        # Not communicate(): it would pass over what the loop above has already buffered.
        assert self.process.stderr is not None
        self.said += self.process.stderr.read()
        self.process.stderr.close()
        return self.process.wait(timeout=20)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    file = tmp_path / "plan.json"
    file.write_text(dump_plan(split_plan(left=1.0)), encoding="utf-8")
    return file


def test_replicas_are_shown_the_key_of_the_plans_engine(tmp_path: Path) -> None:
    plan = split_plan(left=1.0)
    models = tuple(replace(m, engine=EngineChoice(name="sglang")) for m in plan.models)
    file = tmp_path / "plan.json"
    file.write_text(dump_plan(replace(plan, models=models)), encoding="utf-8")
    with replica() as a:
        running = Running(
            str(file),
            "--backend",
            f"small={url(a)}",
            MELANGE_SKY_API_KEY=KEY,
            SGLANG_API_KEY=REPLICA_KEY,
            VLLM_API_KEY="another",
        )
        assert running.ask()["served_by"] == a.server_port
        assert a.seen == [f"Bearer {REPLICA_KEY}"]  # type: ignore[attr-defined]
        assert running.end() == 0


def test_keys_stay_out_of_sight_and_sigterm_lets_requests_end(
    plan_file: Path, tmp_path: Path
) -> None:
    observed = tmp_path / "observed.yaml"
    with replica() as a:
        running = Running(
            str(plan_file),
            "--backend",
            f"small={url(a)}",
            "--observed",
            str(observed),
            MELANGE_SKY_API_KEY=KEY,
            VLLM_API_KEY=REPLICA_KEY,
        )
        assert running.ask()["served_by"] == a.server_port
        assert a.seen == [f"Bearer {REPLICA_KEY}"]  # type: ignore[attr-defined]
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            running.ask(key="wrong")
        refused.value.close()
        command_line = Path(f"/proc/{running.process.pid}/cmdline")
        if command_line.exists():
            assert KEY not in command_line.read_text()
        a.slow_s = 1.0  # type: ignore[attr-defined]
        answers: list[dict[str, Any]] = []
        asking = threading.Thread(target=lambda: answers.append(running.ask()))
        asking.start()
        while len(a.seen) < 2:  # type: ignore[attr-defined]
            time.sleep(0.02)
        assert running.end() == 0
        asking.join()
        assert answers[0]["served_by"] == a.server_port
    assert "warning: chat: no backend for option big" in running.said
    for secret in (KEY, REPLICA_KEY):
        assert secret not in running.said
        assert secret not in observed.read_text()
    assert "requests: 2" in observed.read_text()


def test_sighup_and_a_changed_file_reload(plan_file: Path, tmp_path: Path) -> None:
    backends = tmp_path / "backends"
    with replica() as a, replica() as b:
        backends.write_text(f"# by hand\nsmall={url(a)}\nbig={url(b)}\n")
        key = tmp_path / "key"
        key.write_text(f"other-key\n{KEY}\n")
        running = Running(
            str(plan_file), "--backends-file", str(backends), "--api-key-file", str(key)
        )
        assert running.ask()["served_by"] == a.server_port
        plan_file.write_text(dump_plan(split_plan(left=0.0)), encoding="utf-8")
        running.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while running.ask()["served_by"] != b.server_port:
            assert time.monotonic() < deadline
        plan_file.write_text("{ half a plan", encoding="utf-8")
        backends.write_text(f"big={url(a)}\n")  # noticed without a signal, refused with the plan
        time.sleep(2.5)
        assert running.ask()["served_by"] == b.server_port
        plan_file.write_text(dump_plan(split_plan(left=0.0)), encoding="utf-8")
        while running.ask()["served_by"] != a.server_port:
            assert time.monotonic() < deadline + 10
        assert running.end(signal.SIGINT) == 0
    assert "reload refused, the old plan stays" in running.said
    assert "Traceback" not in running.said


def test_replicas_that_skyserve_reports_ready_become_backends() -> None:
    def service(option: str, *states: str, plan: str = "chat") -> LiveService:
        return LiveService(
            name=f"{plan}-{option}",
            status="READY",
            version=2,
            endpoint="http://lb:30001",
            document={"_metadata": {"melange_sky": {"plan": plan, "option": option}}},
            replicas=tuple(
                LiveReplica(
                    id=n,
                    status=state,
                    version=1 + n % 2,
                    launched_at_s=None,
                    endpoint=None if state == "PROVISIONING" else f"http://10.0.0.{n}:8000",
                )
                for n, state in enumerate(states)
            ),
        )

    live = [
        service("small", "READY", "NOT_READY", "READY", "PROVISIONING"),
        service("gone", "READY"),
        service("big", "READY", plan="other"),
        service("big"),
    ]
    assert replica_urls(split_plan(), live) == {
        "chat/small": ["http://10.0.0.0:8000", "http://10.0.0.2:8000"],
        "chat/big": [],
    }


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(cert),
        ],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    return cert, key


def test_tls(plan_file: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with replica() as a:
        running = Running(
            str(plan_file),
            "--backend",
            f"small={url(a)}",
            "--tls-cert",
            str(cert),
            "--tls-key",
            str(key),
        )
        assert running.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        assert running.ask(context)["served_by"] == a.server_port
        assert running.end() == 0


WRONG: list[tuple[list[str], str]] = [
    ([], "no backend"),
    (["--backend", "small"], "write OPTION=URL"),
    (["--backend", "smal=http://a"], "did you mean 'small'"),
    (["--backend", "small=ftp://a"], "must be http://"),
    (["--backends-file", "/nowhere"], "cannot be read"),
    (["--backend", "small=http://a", "--host", "0.0.0.0"], "require an API key"),
    (["--backend", "small=http://a", "--api-key-file", "/nowhere"], "cannot be read"),
    (["--backend", "small=http://a", "--tls-cert", "/nowhere"], "--tls-cert"),
    (["--backend", "small=http://a", "--tls-key", "/nowhere"], "needs --tls-cert"),
    (["--backend", "small=http://a", "--replica-ca", "/nowhere"], "no such file"),
    (["--backend", "small=http://a", "--tokenizer", "/nowhere"], "no such file"),
    (["--backend", "small=http://a", "--observed", "/nowhere/x"], "--observed"),
    (["--backend", "small=http://a", "--host", "203.0.113.7", "--no-key"], "cannot listen"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[m for _, m in WRONG])
def test_wrong_use_is_one_line_and_exit_2(
    plan_file: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from melange_sky.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["gateway", str(plan_file), "--port", "0", *arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert message in said
    assert "Traceback" not in said
