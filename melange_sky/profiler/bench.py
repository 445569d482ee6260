"""Measure one cell again with an engine's own load generator, an independent client, and compare."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.capacity_search import ProbeAborted
from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.profiler.endpoint import Endpoint, shorten
from melange_sky.profiler.target import EndpointTarget

if TYPE_CHECKING:
    from melange_sky.engines import BenchLoad, BenchResult, BenchTool

_RATE_FRACTION = 0.4  # of the highest rate: near the knee two runs of one client differ already
_PASSES = 3
_SECONDS = 8.0
_BENCH_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """Both clients at one size and rate: the median over `passes` of each pass's median, milliseconds.

    `tool` is the other client. `requests` are of one pass, `bench_completed` of all.
    """

    tool: str
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
            f"{self.rate_rps:.3g} req/s, {self.passes} passes in turn: median TTFT {self.ttft_ms:.1f} ms, {self.tool} "
            f"{self.bench_ttft_ms:.1f} ms; TPOT {self.tpot_ms:.2f} ms, {self.tool} {self.bench_tpot_ms:.2f} ms"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """An engine's load generator: where its program is (None: on the PATH), and which tokenizer it
    makes its prompts with (a folder or model id)."""

    tool: BenchTool
    command: str | None = None
    tokenizer: str | None = None

    @property
    def program(self) -> str:
        """Where the program is; InputError where it is nowhere."""
        found = self.command or shutil.which(self.tool.program)
        if found is None:
            raise InputError(
                f"--check-with {self.tool.name} needs the `{self.tool.program}` command; "
                f"give --{self.tool.program} PATH"
            )
        return found


def cross_check(
    endpoint: Endpoint, size: tuple[int, int], max_rate_rps: float, bench: Bench
) -> CrossCheck:
    """Measure `size` with both clients in turn, so that both see the same moods of the machine.

    At 40 % of its highest rate. A pass in which our client was late is sent again once.
    """
    program = bench.program
    rate = _RATE_FRACTION * max_rate_rps
    requests = int(min(max(40, rate * _SECONDS), 200))
    ours: list[tuple[float, float]] = []
    theirs: list[BenchResult] = []
    for seed in range(_PASSES):
        load = _load(endpoint, size, bench, rate_rps=rate, requests=requests, seed=seed)
        ours.append(_our_medians(endpoint, load))
        theirs.append(_run_bench(program, endpoint, bench.tool, load))
    ttft_ms, tpot_ms = (float(np.median(column)) for column in zip(*ours, strict=True))
    return CrossCheck(
        tool=bench.tool.title,
        input_tokens=size[0],
        output_tokens=size[1],
        rate_rps=rate,
        requests=requests,
        passes=_PASSES,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        bench_ttft_ms=float(np.median([result.ttft_ms for result in theirs])),
        bench_tpot_ms=float(np.median([result.tpot_ms for result in theirs])),
        bench_completed=sum(result.completed for result in theirs),
    )


def _load(endpoint: Endpoint, size: tuple[int, int], bench: Bench, **how: Any) -> BenchLoad:
    from melange_sky.engines import BenchLoad

    return BenchLoad(
        base_url=endpoint.base,
        model=endpoint.model,
        tokenizer=bench.tokenizer or endpoint.model,
        input_tokens=size[0],
        output_tokens=size[1],
        **how,
    )


def _our_medians(endpoint: Endpoint, load: BenchLoad) -> tuple[float, float]:
    """Return our client's medians of TTFT and TPOT, milliseconds."""
    target = EndpointTarget(
        endpoint=endpoint, input_tokens=load.input_tokens, output_tokens=load.output_tokens
    )
    with contextlib.suppress(ProbeAborted):
        target.probe(load.rate_rps, load.requests, seed=load.seed)
    if target.was_late:
        with contextlib.suppress(ProbeAborted):
            target.probe(load.rate_rps, load.requests, seed=load.seed + _PASSES)
    log = target.sent[-1].outcome.log
    return float(np.median(log.ttft_s[log.ok])) * 1e3, float(np.median(log.tpot_s[log.ok])) * 1e3


def _run_bench(program: str, endpoint: Endpoint, tool: BenchTool, load: BenchLoad) -> BenchResult:
    environment = dict(os.environ)
    if endpoint.api_key:
        environment[tool.key_variable] = endpoint.api_key
    with tempfile.TemporaryDirectory(prefix="melange-sky-") as folder:
        try:
            done = subprocess.run(
                [program, *tool.words(load, folder)],
                capture_output=True,
                timeout=_BENCH_TIMEOUT_S,
                env=environment,
                check=False,
            )
            if done.returncode == 0:
                text = (Path(folder) / tool.result_file).read_text(encoding="utf-8")
                return tool.result(json.loads(text))
        except (OSError, LookupError, TypeError, ValueError, subprocess.TimeoutExpired) as error:
            raise SourceUnavailableError(f"{tool.title}: {str(error)[:200]}") from error
    last = done.stderr.strip().splitlines()[-1:] or [b"no message"]
    raise SourceUnavailableError(f"{tool.title} failed: {shorten(last[0])}")
