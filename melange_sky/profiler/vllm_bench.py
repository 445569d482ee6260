"""Measure one cell again with `vllm bench serve`, an independent client, and compare."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from melange_sky.capacity_search import ProbeAborted
from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.profiler.endpoint import Endpoint, shorten
from melange_sky.profiler.target import EndpointTarget

_RATE_FRACTION = 0.4  # of the highest rate: near the knee two runs of one client differ already
_PASSES = 3
_SECONDS = 8.0
_BENCH_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """Both clients at one size and rate: the median over `passes` of each pass's median, milliseconds.

    `requests` are of one pass, `bench_completed` of all.
    """

    input_tokens: int
    output_tokens: int
    rate_rps: float
    requests: int
    passes: int
    ttft_ms: float
    tpot_ms: float
    bench_ttft_ms: float
    bench_tpot_ms: float
    bench_completed: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """Return one line for people."""
        return (
            f"cross-check at input {self.input_tokens}, output {self.output_tokens}, "
            f"{self.rate_rps:.3g} req/s, {self.passes} passes in turn: median TTFT {self.ttft_ms:.1f} ms, vllm bench "
            f"{self.bench_ttft_ms:.1f} ms; TPOT {self.tpot_ms:.2f} ms, vllm bench {self.bench_tpot_ms:.2f} ms"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where `vllm` is and which tokenizer it makes its prompts with (a folder or model id)."""

    command: str | None = None
    tokenizer: str | None = None


def cross_check(
    endpoint: Endpoint, size: tuple[int, int], max_rate_rps: float, bench: Bench
) -> CrossCheck:
    """Measure `size` with both clients in turn, so that both see the same moods of the machine.

    At 40 % of its highest rate. A pass in which our client was late is sent again once.
    """
    command = bench.command or shutil.which("vllm")
    if command is None:
        raise InputError("--check-with vllm-bench needs the `vllm` command; give --vllm PATH")
    rate = _RATE_FRACTION * max_rate_rps
    requests = int(min(max(40, rate * _SECONDS), 200))
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    completed = 0
    for seed in range(_PASSES):
        ours.append(_our_medians(endpoint, size, (rate, requests), seed))
        words = _arguments(endpoint, size, (rate, requests, seed), bench)
        with tempfile.TemporaryDirectory(prefix="melange-sky-") as folder:
            said = _run_bench([command, *words, "--result-dir", folder], endpoint, Path(folder))
        theirs.append((float(said["median_ttft_ms"]), float(said["median_tpot_ms"])))
        completed += int(said["completed"])
    ttft_ms, tpot_ms = (float(np.median(column)) for column in zip(*ours, strict=True))
    bench_ttft_ms, bench_tpot_ms = (
        float(np.median(column)) for column in zip(*theirs, strict=True)
    )
    return CrossCheck(
        input_tokens=size[0],
        output_tokens=size[1],
        rate_rps=rate,
        requests=requests,
        passes=_PASSES,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        bench_ttft_ms=bench_ttft_ms,
        bench_tpot_ms=bench_tpot_ms,
        bench_completed=completed,
    )


def _our_medians(
    endpoint: Endpoint, size: tuple[int, int], load: tuple[float, int], seed: int
) -> tuple[float, float]:
    """Return our client's medians of TTFT and TPOT, milliseconds."""
    target = EndpointTarget(endpoint=endpoint, input_tokens=size[0], output_tokens=size[1])
    with contextlib.suppress(ProbeAborted):
        target.probe(*load, seed=seed)
    if target.was_late:
        with contextlib.suppress(ProbeAborted):
            target.probe(*load, seed=seed + _PASSES)
    log = target.sent[-1].outcome.log
    return float(np.median(log.ttft_s[log.ok])) * 1e3, float(np.median(log.tpot_s[log.ok])) * 1e3


def _arguments(
    endpoint: Endpoint, size: tuple[int, int], load: tuple[float, int, int], bench: Bench
) -> list[str]:
    flags = {
        "--backend": "openai",
        "--base-url": endpoint.base,
        "--endpoint": "/v1/completions",
        "--model": endpoint.model,
        "--tokenizer": bench.tokenizer or endpoint.model,
        "--dataset-name": "random",
        "--random-input-len": size[0],
        "--random-output-len": size[1],
        "--random-range-ratio": 0,
        "--request-rate": f"{load[0]:.6g}",
        "--num-prompts": load[1],
        "--num-warmups": 2,
        "--seed": load[2],
        "--temperature": 0,
        "--result-filename": "bench.json",
        "--percentile-metrics": "ttft,tpot",
    }
    words = [str(word) for pair in flags.items() for word in pair]
    return ["bench", "serve", *words, "--ignore-eos", "--save-result", "--disable-tqdm"]


def _run_bench(command: list[str], endpoint: Endpoint, folder: Path) -> Any:
    environment = dict(os.environ)
    if endpoint.api_key:
        environment["OPENAI_API_KEY"] = endpoint.api_key
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_BENCH_TIMEOUT_S, env=environment, check=False
        )
        said: Any = None
        if done.returncode == 0:
            said = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise SourceUnavailableError(f"vllm bench serve: {str(error)[:200]}") from error
    if said is None:
        last = done.stderr.strip().splitlines()[-1:] or [b"no message"]
        raise SourceUnavailableError(f"vllm bench serve failed: {shorten(last[0])}")
    return said
