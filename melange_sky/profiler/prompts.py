"""Prompts of an exact size that no prefix cache can answer, or as far as is wanted; and arrival times."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InputError
from melange_sky.profiler.shared_prompts import shared_ids

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reuse import Reuse

# Ids below are often special tokens; ids above exceed the smallest vocabularies in use (32 000).
LOWEST_ID = 1000
HIGHEST_ID = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStyle:
    """How prompts are made.

    Token ids give exact sizes. `words` sends text of that many words for servers that take no ids;
    sizes are then what the server's `usage` counts. `prefix_share` is the fraction of each prompt
    that all requests of a cell have in common; with `reuse` they share what a workload's prompts do.
    """

    words: bool = False
    prefix_share: float = 0.0
    reuse: Reuse | None = None
    lowest_id: int = LOWEST_ID
    highest_id: int = HIGHEST_ID

    def __post_init__(self) -> None:
        if not 0 <= self.prefix_share < 1:
            raise InputError("the prefix share must be at least 0 and below 1")
        if not 0 <= self.lowest_id < self.highest_id:
            raise InputError("token ids need 0 ≤ lowest < highest")
        if self.reuse is not None and self.prefix_share:
            raise InputError("--reuse and --prefix-share both say what prompts share: give one")


def request_bodies(
    model: str, sizes: tuple[int, int], count: int, style: PromptStyle, seed: int
) -> list[bytes]:
    """Return `count` JSON bodies for prompts of `sizes` = (input, output) tokens, all different.

    Encoded beforehand, so that sending costs nothing when its time has come.
    """
    _, output_tokens = sizes
    prompts = _ids(sizes, count, style, seed)
    rest = {
        "model": model,
        "max_tokens": output_tokens,
        "min_tokens": output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    tail = json.dumps(rest)[1:]
    bodies = []
    for ids in prompts:
        prompt = " ".join(map(_word, ids.tolist())) if style.words else ids.tolist()
        bodies.append(f'{{"prompt": {json.dumps(prompt)}, {tail}'.encode())
    return bodies


def _ids(
    sizes: tuple[int, int], count: int, style: PromptStyle, seed: int
) -> Iterator[NDArray[np.int64]]:
    input_tokens, output_tokens = sizes
    if style.reuse is not None:
        ids = (style.lowest_id, style.highest_id)
        yield from shared_ids(style.reuse, sizes, count, ids, seed)
        return
    rng = np.random.default_rng([seed, input_tokens, output_tokens])
    shared = int(style.prefix_share * input_tokens)
    # The common part depends on the size alone: the same over all probes of a cell.
    common = np.random.default_rng([input_tokens]).integers(
        style.lowest_id, style.highest_id, shared
    )
    for _ in range(count):
        own = rng.integers(style.lowest_id, style.highest_id, input_tokens - shared)
        yield np.concatenate([common, own])


def _word(number: int) -> str:
    """Return a pronounceable word for a number.

    >>> _word(1000), _word(29_999)
    ('lira', 'vujoga')
    """
    text = ""
    while True:
        number, syllable = divmod(number, 80)
        text += "bcdfghjklmnprstvwxyz"[syllable % 16] + "aeiou"[syllable // 16]
        if not number:
            return text


def poisson_offsets(rate_rps: float, count: int, seed: int) -> NDArray[np.float64]:
    """Return when each request is due, seconds from the start: a Poisson stream of exactly this rate.

    Given how many requests a Poisson stream has, their times are as uniform numbers in order, so gaps
    are exponential ones scaled to a mean of 1 ÷ rate. Unscaled, a hundred requests miss the rate by
    10 %, and the rate that is searched for would be known no better.
    """
    rng = np.random.default_rng([seed, 1])
    times = np.cumsum(rng.exponential(1 / rate_rps, count + 1))
    scaled: NDArray[np.float64] = times[:count] * ((count + 1) / rate_rps / times[count])
    return scaled


def trace_offsets(
    timestamps_s: Sequence[float], rate_rps: float, count: int, seed: int
) -> NDArray[np.float64]:
    """Return the due times of `count` requests with the gaps of a recorded stream, scaled to the rate.

    Each seed begins elsewhere in the stream; its end is followed by its beginning. Requests with one
    timestamp are spread evenly over the step of the trace's clock: all that it tells of them.
    """
    times = np.sort(np.asarray(timestamps_s, dtype=np.float64))
    if rate_rps <= 0 or not np.isfinite(times).all() or len(np.unique(times)) < 2:
        raise InputError("a trace of arrivals needs finite timestamps that are not all the same")
    gaps = np.diff(_spread_ties(times))
    start = int(np.random.default_rng([seed, 2]).integers(len(gaps)))
    taken = gaps[(start + np.arange(count)) % len(gaps)]
    offsets: NDArray[np.float64] = np.cumsum(taken) * (count / rate_rps / taken.sum())
    return offsets


def _spread_ties(times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sorted times with equal ones apart, each before the next later one."""
    moments, which, counts = np.unique(times_s, return_inverse=True, return_counts=True)
    rank = np.arange(len(times_s)) - (np.cumsum(counts) - counts)[which]
    spread: NDArray[np.float64] = times_s + rank / counts[which] * np.diff(moments).min()
    return spread
