"""Clients that stream without a pause, and an `apply` that is killed at one step after another."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path
from subprocess import PIPE, Popen

from tests.sky.bed import Bed

TOKENS, TOKEN_S = 30, 0.1


class Streaming:
    """So many clients that stream through a URL; `failed` says what did not end well."""

    def __init__(self, url: str, model: str, clients: int) -> None:
        self.failed: list[str] = []
        self.done = 0
        self._url, self._model = url, model
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        time.sleep(0.2 * number)
        while not self._stop.is_set():
            try:
                self._stream()
            except (OSError, AssertionError, ValueError) as error:
                self.failed.append(f"{time.strftime('%X')} {error!r}")
            self.done += 1
            time.sleep(1)

    def _stream(self) -> None:
        body = {
            "model": self._model,
            "prompt": "word " * 100,
            "max_tokens": TOKENS,
            "stream": True,
            "token_s": TOKEN_S,
        }
        request = urllib.request.Request(
            f"{self._url}/v1/completions",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            text = response.read().decode()
        assert text.count('"text"') == TOKENS, text[-200:]
        assert text.endswith("data: [DONE]\n\n"), text[-200:]

    def end(self) -> None:
        """Let each client end what it streams."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=120)


def apply_until(bed: Bed, words: list[str], step: str | None, limit_s: float = 600) -> list[str]:
    """Run `apply` and kill it as soon as it tells of a step; None lets it end. Returns what it told."""
    told = []
    with Popen(
        ["melange-sky", "apply", *words, "--yes"],
        env=bed.env,
        cwd=bed.home,
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    ) as process:
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        assert process.stderr is not None and process.stdout is not None
        for line in process.stderr:
            told.append(line.rstrip())
            if step is not None and step in line:
                process.kill()
        changes = process.stdout.read()
        status = process.wait()
        timer.cancel()
    assert status == (0 if step is None else -9), (status, changes, told)
    return told


def single_option(counts: dict[str, int], accelerator: str, replicas: int) -> bool:
    """Whether a plan is so many replicas of one accelerator and nothing else."""
    return list(counts.values()) == [replicas] and accelerator in next(iter(counts))


def folder_words(desk: Path, url: str) -> list[str]:
    """Return the arguments of an `apply` that brings the gateway at `url` over."""
    return [str(desk / "fleet"), "--routes", str(desk / "routes.json"), "--gateway", url]
