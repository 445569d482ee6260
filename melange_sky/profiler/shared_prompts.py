"""Token ids of prompts of one size that share what a workload's prompts share.

All begin with the common prefix. Of a session's requests each but the first goes on with an earlier prompt, so
long ago as the stack-distance curve says, and repeats as much of it that prompts find what an endless cache would
find of the workload. What would go on with a prompt from before the load begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from melange_sky.reuse import Reuse

    Whole = NDArray[np.int64]


_SAMPLED_LAGS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedParts:
    """Of a prompt of so many tokens: the common prefix, what a later turn repeats, and how many are later turns."""

    common_tokens: int
    repeated_tokens: int
    later_fraction: float

    @property
    def found_tokens(self) -> float:
        """What an endless cache finds of a prompt, on average."""
        return (
            self.later_fraction * self.repeated_tokens
            + (1 - self.later_fraction) * self.common_tokens
        )


def shared_parts(reuse: Reuse, input_tokens: int) -> SharedParts:
    """Return the parts of prompts of `input_tokens` tokens by the figures of a workload."""
    most = input_tokens - 1  # the last token is always computed
    common = min(reuse.shared_prefix_tokens, most)
    turns = reuse.session_turns
    if not reuse.stack_distance:
        later = 0.0 if turns is None else 1.0 - 1.0 / turns.mean
        # a history of equal turns: of the k-th one all but a k-th was there before
        repeated = most if turns is None else round(input_tokens * later)
        return SharedParts(
            common_tokens=common,
            repeated_tokens=min(most, max(common, repeated)),
            later_fraction=later,
        )
    due = reuse.infinite_hit * input_tokens
    common = min(common, int(due))
    later = 1.0 if turns is None else 1.0 - 1.0 / turns.mean
    # so many must go on, or what they repeat would be more than a prompt
    later = min(1.0, max(later, (due - common) / max(most - common, 1)))
    repeated = common if later == 0 else round((due - (1 - later) * common) / later)
    return SharedParts(
        common_tokens=common,
        repeated_tokens=min(most, max(common, repeated)),
        later_fraction=later if repeated > common else 0.0,
    )


def found_in_a_load(reuse: Reuse, sizes: tuple[int, int], count: int) -> tuple[float, float]:
    """Return the fractions of the prompt tokens that `count` prompts find of each other, and that they should.

    They are the same but for what would go on with a prompt from before the first one.
    """
    input_tokens, output_tokens = sizes
    parts = shared_parts(reuse, input_tokens)
    rng = np.random.default_rng(0)
    new_tokens = input_tokens - parts.found_tokens + output_tokens
    lags = _lags(reuse, new_tokens, _SAMPLED_LAGS, rng)
    within = float(np.maximum(0.0, 1.0 - lags / count).mean())
    later = parts.later_fraction * (parts.repeated_tokens - parts.common_tokens)
    return (
        (parts.common_tokens + later * within) / input_tokens,
        (parts.common_tokens + later) / input_tokens,
    )


def shared_ids(
    reuse: Reuse, sizes: tuple[int, int], count: int, ids: tuple[int, int], seed: int
) -> Whole:
    """Return `count` prompts of `sizes` = (input, output) tokens, shape (count, input), ids from a range."""
    input_tokens, output_tokens = sizes
    parts = shared_parts(reuse, input_tokens)
    rng = np.random.default_rng([seed, input_tokens, output_tokens])
    prompts = rng.integers(*ids, (count, input_tokens))
    # The common part depends on the size alone: the same over all probes of a cell.
    common = np.random.default_rng([input_tokens]).integers(*ids, parts.common_tokens)
    prompts[:, : parts.common_tokens] = common
    lags = _lags(reuse, input_tokens - parts.found_tokens + output_tokens, count, rng)
    later = rng.random(count) < parts.later_fraction
    for k in range(count):
        if later[k] and lags[k] <= k:
            repeated = parts.repeated_tokens
            prompts[k, :repeated] = prompts[k - lags[k], :repeated]
    return prompts


def _lags(reuse: Reuse, new_tokens: float, count: int, rng: np.random.Generator) -> Whole:
    """Return how many requests ago each one's session had its last, if it had one."""
    if not reuse.stack_distance:
        return rng.integers(1, 9, count)  # nothing is told: soon
    tokens, found = (np.array(column) for column in zip(*reuse.stack_distance, strict=True))
    # what all share is found at once and says nothing of sessions
    lowest = min(reuse.shared_fraction, float(found[-1]))
    distance = np.interp(rng.uniform(lowest, found[-1], count), found, tokens)
    lags: Whole = np.maximum(1, np.rint(distance / max(new_tokens, 1.0))).astype(np.int64)
    return lags
