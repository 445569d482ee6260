"""A prefix cache as engines keep it, block by block: what the fast ways are held against."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from melange_sky.reuse import PrefixPaths


def found_blocks(
    paths: PrefixPaths,
    inputs: NDArray[np.int64],
    outputs: NDArray[np.int64],
    room: int,
    *,
    runs: bool = False,
) -> list[int]:
    """Return the blocks that each prompt finds in a cache of `room` blocks, one request after the other.

    `runs`: a last block that is not full takes room while its request runs, and is free at its end.
    """
    cache: OrderedDict[tuple[int, int, int], None] = OrderedDict()  # the first is given up first
    found = []
    for i in range(len(paths)):
        segments = paths.segment[paths.first[i] : paths.first[i + 1]].tolist()
        prompt = [(0, s, k) for s in segments[: paths.prompt[i]] for k in range(paths.blocks[s])]
        answer = [(0, s, k) for s in segments[paths.prompt[i] :] for k in range(paths.blocks[s])]
        most, count = (int(inputs[i]) - 1) // paths.block_tokens, 0
        while count < min(most, len(prompt)) and prompt[count] in cache:
            count += 1
        found.append(count)
        whole = int(inputs[i] + outputs[i] - 1) // paths.block_tokens
        alone = [(1, i, k) for k in range(whole - len(prompt) - len(answer))]
        for block in [*reversed(alone), *reversed(answer), *reversed(prompt)]:
            cache.pop(block, None)
            cache[block] = None
        not_full = runs and int(inputs[i] + outputs[i] - 1) % paths.block_tokens > 0
        while len(cache) > room - not_full:
            cache.popitem(last=False)
    return found
