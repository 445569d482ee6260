"""A simulated engine with a Prometheus page, as a real one has it: counters of all that it did so far."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from melange_sky.learning import Scrape, Sizes
from melange_sky.simulator import RequestStream, compiled
from melange_sky.simulator import state as columns
from melange_sky.simulator.state import FleetState, fleet_state
from melange_sky.steps import ReplicaModel

EVERY_S = 15.0
EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, float("inf"))


def looks(
    replica: ReplicaModel, stream: RequestStream, every_s: float = EVERY_S
) -> Iterator[Scrape]:
    """Yield what an engine under this stream says every few seconds, until the last arrival."""
    state = fleet_state([replica], len(stream), int(stream.input_tokens.max()))
    compiled.set_requests(state, stream.arrival_s, stream.input_tokens, stream.output_tokens)
    sent, end_s = 0, float(stream.arrival_s[-1])
    for time_s in np.arange(every_s, end_s, every_s).tolist():
        while sent < len(stream) and stream.arrival_s[sent] < time_s:
            compiled.advance_all(state, float(stream.arrival_s[sent]))
            compiled.enter(state, 0, sent)
            sent += 1
        compiled.advance_all(state, time_s)
        yield look(state, time_s, sent)


def look(state: FleetState, time_s: float, sent: int) -> Scrape:
    """Return what the engine counts after `sent` requests."""
    request, times = state.request[:sent], state.times[:sent]
    whole, stage = state.whole[0], request[:, columns.STATE]
    done, decoding = stage == columns.DONE, stage == columns.IN_DECODE
    first, last, arrival = (times[:, c] for c in (columns.FIRST, columns.LAST, columns.ARRIVAL))
    left = np.where(decoding, request[:, columns.FINISH] - whole[columns.STEP], 0)
    generated = np.where(done | decoding, request[:, columns.OUTPUT] - left, 0)
    clock = state.real[0, columns.CLOCK]
    decode_s = np.where(done, last - first, np.where(decoding, clock - first, 0.0))
    begun = np.isfinite(first)
    partly = np.where(stage == columns.IN_PREFILL, request[:, columns.PREFILLED], 0)
    prompted = np.where(done | decoding, request[:, columns.INPUT], partly)
    figures = {
        "running": float(whole[columns.RUNNING]),
        "waiting": float(whole[columns.WAITING]),
        "kv_use": 1 - float(whole[columns.FREE]) / float(whole[columns.POOL]),
        "decode_s": float(np.nansum(decode_s)),
        "decoded": float((generated - 1)[begun].sum()),
        "prompted": float(prompted.sum()),
        "first_tokens": float(begun.sum()),
        "ttft_s": float((first - arrival)[begun].sum()),
    }
    return Scrape(
        time_s=time_s,
        figures=figures,
        prompts=counted(request[done, columns.INPUT]),
        answers=counted(request[done, columns.OUTPUT]),
    )


def counted(tokens: np.ndarray) -> Sizes:
    """Return sizes as a histogram."""
    counts = tuple(float((tokens <= edge).sum()) for edge in EDGES)
    return Sizes(edges=EDGES, counts=counts, tokens=float(tokens.sum()))


def changing(
    rng: np.random.Generator, peak_rps: float, seconds: float, means: tuple[float, float]
) -> RequestStream:
    """Return requests whose rate rises from 0.3 to 1 of the peak and falls again, sizes log-normal."""
    at = np.arange(0, seconds)
    counts = rng.poisson(peak_rps * (0.3 + 0.7 * np.sin(np.pi * at / seconds) ** 2))
    arrivals = np.sort(np.repeat(at, counts) + rng.random(counts.sum()))
    sizes = [
        np.clip(rng.lognormal(np.log(mean) - 0.5 * 0.7**2, 0.7, len(arrivals)), low, 8000).astype(
            int
        )
        for mean, low in zip(means, (1, 2), strict=True)
    ]
    return RequestStream.of(arrivals, *sizes)
