"""Traffic shaped like Mooncake's conversation trace, from its published statistics alone.

About 3.3 req/s, 12,035 input and 343 output tokens in the mean, blocks of 512 tokens of which 36.6 %
repeat (Qin et al., Mooncake, FAST 2025, and the trace's description); half of what repeats comes back within about three
minutes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.prefixes import paths_of_hashes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from melange_sky.reuse import PrefixPaths

ID_TOKENS = 512
RATE_RPS = 3.34
MORE_TURNS = 0.4
FIRST_TOKENS, TURN_TOKENS, ANSWER_TOKENS = 8_200.0, 5_200.0, 343.0
LAG_MEDIAN_S, LAG_SIGMA = 165.0, 1.1
SYSTEM_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShapedTrace:
    """Requests in the order in which they come, with the ids of their prompts' blocks."""

    arrival_s: NDArray[np.float64]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    hash_ids: list[list[int]]

    @property
    def paths(self) -> PrefixPaths:
        """The prompts as paths."""
        first = np.concatenate([[0], np.cumsum([len(ids) for ids in self.hash_ids])])
        flat = np.array([i for ids in self.hash_ids for i in ids], dtype=np.int64)
        return paths_of_hashes(first, flat, self.inputs, ID_TOKENS)

    def write(self, path: Path) -> None:
        """Write a file as Mooncake's are."""
        rows = zip(self.arrival_s, self.inputs, self.outputs, self.hash_ids, strict=True)
        lines = [
            json.dumps(
                {
                    "timestamp": round(1000 * float(at)),
                    "input_length": int(given),
                    "output_length": int(answered),
                    "hash_ids": ids,
                }
            )
            for at, given, answered, ids in rows
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def mooncake_like(requests: int, seed: int = 0, rate_rps: float = RATE_RPS) -> ShapedTrace:
    """Return so many requests; the same for the same seed."""
    rng = np.random.default_rng(seed)
    mean_turns = 1 / (1 - MORE_TURNS)
    rows: list[tuple[float, int, int, list[int]]] = []
    new_id = 1
    lead_s = 1200.0  # sessions that had begun before
    span_s = requests / rate_rps
    at = -lead_s
    while at < span_s:
        at += float(rng.exponential(mean_turns / rate_rps))
        now, size, text = at, SYSTEM_TOKENS, [0]
        more = _tokens(rng, FIRST_TOKENS, 1.0)
        while True:
            whole = (size + more) // ID_TOKENS
            text += [new_id + k for k in range(whole - len(text))]
            size += more
            new_id += max(whole, 1) + 1
            last = [new_id] if size % ID_TOKENS else []
            new_id += 1
            answer = _tokens(rng, ANSWER_TOKENS, 0.7)
            if now >= 0:
                rows.append((now, size, answer, text[:whole] + last))
            if rng.random() > MORE_TURNS:
                break
            now += float(rng.lognormal(np.log(LAG_MEDIAN_S), LAG_SIGMA))
            size += answer
            more = _tokens(rng, TURN_TOKENS, 1.2)
    rows = sorted(row for row in rows if row[0] < span_s)[:requests]
    at_s, inputs, outputs, ids = zip(*rows, strict=True)
    return ShapedTrace(
        arrival_s=np.array(at_s) - at_s[0],
        inputs=np.array(inputs, dtype=np.int64),
        outputs=np.array(outputs, dtype=np.int64),
        hash_ids=list(ids),
    )


def _tokens(rng: np.random.Generator, mean: float, sigma: float) -> int:
    """Draw a length: log-normal with such a mean."""
    return max(1, int(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma)))
