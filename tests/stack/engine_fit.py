"""Probe a real vLLM server, fit a replica's constants on some probes and predict the others."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from melange_sky.capacity_search import ProbeAborted
from melange_sky.profiler import Endpoint, EndpointTarget
from melange_sky.simulator import fit_replica, median_latencies, predict_like
from melange_sky.slo import RequestLog
from melange_sky.steps import KvPool, ReplicaModel, StepCosts

RETRY_S = 40.0

START = ReplicaModel(
    # The first guesses of `fit_replica` come from the probes: these costs only have to be there.
    costs=StepCosts(
        fixed_s=1e-2,
        sequence_s=1e-3,
        weights_s=0.0,
        experts_s=0.0,
        expert_miss=0.0,
        token_flops_s=1e-5,
        token_link_s=0.0,
        kv_token_s=1e-7,
        pair_s=0.0,
    ),
    # The limits are the server's flags: 64 MiB of 512 B per token (2 layers × K, V × 32 × float32).
    pool=KvPool(blocks=8192, block_tokens=16),
    chunked=True,
    budget_tokens=1024,
    max_num_seqs=4,
    watermark_blocks=0,
    reserve_tokens=0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What to send: sizes in tokens and the load as requests in flight on a server without queue."""

    input_tokens: int
    output_tokens: int
    load: float
    requests: int = 12

    def __str__(self) -> str:
        return f"input {self.input_tokens:4} output {self.output_tokens:2} load {self.load:3.1f}"


# Answers of 48 tokens and more: shorter ones of a server this fast often arrive in one piece.
FITTED = (
    Point(input_tokens=32, output_tokens=48, load=0.5),
    Point(input_tokens=768, output_tokens=48, load=0.5),
    Point(input_tokens=128, output_tokens=96, load=1.5),
    Point(input_tokens=512, output_tokens=64, load=1.0),
    Point(input_tokens=64, output_tokens=128, load=1.0),
)
PREDICTED = (
    Point(input_tokens=64, output_tokens=64, load=0.7),
    Point(input_tokens=256, output_tokens=96, load=0.7),
    Point(input_tokens=96, output_tokens=160, load=1.2),
    Point(input_tokens=1000, output_tokens=80, load=0.6),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Medians in seconds of one point that was not fitted."""

    point: Point
    seen: tuple[float, float]
    expected: tuple[float, float]

    @property
    def ratios(self) -> tuple[float, float]:
        """Predicted ÷ measured TTFT and TPOT."""
        return self.expected[0] / self.seen[0], self.expected[1] / self.seen[1]

    def __str__(self) -> str:
        names = ("TTFT", "TPOT")
        shown = [
            f"{n} {s * 1e3:6.1f} ms, predicted {e * 1e3:6.1f} ms ({e / s:.2f} ×)"
            for n, s, e in zip(names, self.seen, self.expected, strict=True)
        ]
        return f"{self.point}: {'; '.join(shown)}"


class Prober:
    """Sends points to one server at rates that suit its speed, which two short probes tell."""

    def __init__(self, url: str) -> None:
        self._retry_until = time.monotonic() + RETRY_S
        self._endpoint = Endpoint(url=url, model="tiny", timeout_s=60.0)
        self._send(32, 8, 3.0, 8)  # the first requests of a new server are slow
        alone = self._send(32, 16, 2.0, 8)
        long = self._send(512, 4, 2.0, 8)
        self._step_s = median_latencies(alone)[1]
        slower_s = median_latencies(long)[0] - median_latencies(alone)[0]
        self._token_s = max(0.0, slower_s) / (512 - 32)

    def log(self, point: Point, seed: int) -> RequestLog:
        """Measure one point."""
        alone_s = self._step_s * (point.output_tokens + 1) + self._token_s * point.input_tokens
        return self._send(
            point.input_tokens, point.output_tokens, point.load / alone_s, point.requests, seed
        )

    def _send(
        self, inputs: int, outputs: int, rate_rps: float, requests: int, seed: int = 0
    ) -> RequestLog:
        """Send until the client itself was not late, three times at most: then the last one counts.

        Nothing is sent again once `RETRY_S` are over, so that a busy machine ends in bounded time.
        """
        target = EndpointTarget(
            endpoint=self._endpoint, input_tokens=inputs, output_tokens=outputs, late_s=0.04
        )
        for again in range(3):
            with contextlib.suppress(ProbeAborted):
                target.probe(rate_rps, requests, seed + 1000 * again)
                break
            if time.monotonic() > self._retry_until:
                break
        outcome = target.sent[-1].outcome
        assert outcome.log.ok.all(), outcome.errors
        return outcome.log


def fit_and_predict(
    url: str, fitted: Sequence[Point] = FITTED, predicted: Sequence[Point] = PREDICTED
) -> tuple[ReplicaModel, list[Prediction]]:
    """Measure every point in two passes, so that a busy minute is not one point's, and predict.

    Half the requests in each pass; the fit sees the passes apart, medians are over both.
    """
    prober = Prober(url)
    passes = [
        {p: prober.log(p, 100 * n + i) for i, p in enumerate([*fitted, *predicted])} for n in (0, 1)
    ]
    replica = fit_replica(START, [logs[p] for logs in passes for p in fitted])
    found = [
        Prediction(
            point=p,
            seen=_medians([logs[p] for logs in passes]),
            expected=_medians([predict_like(replica, logs[p]) for logs in passes]),
        )
        for p in predicted
    ]
    return replica, found


def _medians(logs: Sequence[RequestLog]) -> tuple[float, float]:
    ttft_s, tpot_s = (np.concatenate([getattr(g, n) for g in logs]) for n in ("ttft_s", "tpot_s"))
    return float(np.median(ttft_s)), float(np.median(tpot_s))


def median_error(predictions: Sequence[Prediction]) -> float:
    """Return the median of |predicted ÷ measured − 1| over TTFT and TPOT of all points."""
    return statistics.median(abs(r - 1) for p in predictions for r in p.ratios)


def worst_factor(predictions: Sequence[Prediction]) -> float:
    """Return by which factor the worst prediction is off, in either direction."""
    return float(np.exp(max(abs(np.log(r)) for p in predictions for r in p.ratios)))
