"""Measure one cell again with `vllm bench serve`, an independent client, and compare."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.profiler.endpoint import Endpoint, shorten
from melange_sky.profiler.target import EndpointTarget

_RATE_FRACTION = 0.6  # of the highest rate: near the knee two runs of one client differ already
_SECONDS = 20.0
_BENCH_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """Medians of both clients at one size and rate, milliseconds."""

    input_tokens: int
    output_tokens: int
    rate_rps: float
    requests: int
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
            f"{self.rate_rps:.3g} req/s: median TTFT {self.ttft_ms:.1f} ms, vllm bench "
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
    """Measure `size` with both clients, one after the other, at 60 % of its highest rate."""
    command = bench.command or shutil.which("vllm")
    if command is None:
        raise InputError("--check-with vllm-bench needs the `vllm` command; give --vllm PATH")
    rate = _RATE_FRACTION * max_rate_rps
    requests = int(min(max(40, rate * _SECONDS), 400))
    target = EndpointTarget(
        endpoint=endpoint, input_tokens=size[0], output_tokens=size[1], late_s=1.0
    )
    log = target.probe(rate, requests, seed=7)
    with tempfile.TemporaryDirectory(prefix="melange-sky-") as folder:
        said = _run_bench([command, *_arguments(endpoint, size, (rate, requests), bench), "--result-dir", folder], endpoint, Path(folder))  # fmt: skip
    return CrossCheck(
        input_tokens=size[0], output_tokens=size[1], rate_rps=rate, requests=requests,
        ttft_ms=float(np.median(log.ttft_s[log.ok])) * 1e3,
        tpot_ms=float(np.median(log.tpot_s[log.ok])) * 1e3,
        bench_ttft_ms=float(said["median_ttft_ms"]), bench_tpot_ms=float(said["median_tpot_ms"]),
        bench_completed=int(said["completed"]),
    )  # fmt: skip


def _arguments(
    endpoint: Endpoint, size: tuple[int, int], load: tuple[float, int], bench: Bench
) -> list[str]:
    flags = {
        "--backend": "openai", "--base-url": endpoint.base, "--endpoint": "/v1/completions",
        "--model": endpoint.model, "--tokenizer": bench.tokenizer or endpoint.model,
        "--dataset-name": "random", "--random-input-len": size[0], "--random-output-len": size[1],
        "--random-range-ratio": 0, "--request-rate": f"{load[0]:.6g}", "--num-prompts": load[1],
        "--num-warmups": 2, "--seed": 7, "--temperature": 0, "--result-filename": "bench.json",
        "--percentile-metrics": "ttft,tpot",
    }  # fmt: skip
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
