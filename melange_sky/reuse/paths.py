"""Prompts as paths in one tree, which is what a prefix cache sees of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixPaths:
    """What N requests share, in full blocks of `block_tokens`, as paths from the root of a tree of S segments.

    Request i goes through `segment[first[i]:first[i + 1]]`, each as a whole: the first `prompt[i]` of them
    are its prompt's, the others what its answer adds for whoever sends both again. `blocks` and `end` (S) are a segment's length and the depth
    of its end. `session` (N) numbers what a router keeps together. What of a request lies in no segment is
    its own alone. Shapes: `first` (N + 1), `prompt`, `session` (N), `segment` (all paths one after the other).
    """

    block_tokens: int
    first: Whole
    prompt: Whole
    segment: Whole
    blocks: Whole
    end: Whole
    session: Whole

    def __len__(self) -> int:
        return len(self.prompt)

    def part(self, start: int, stop: int) -> PrefixPaths:
        """Return the requests from `start` up to `stop`, which keep their segments' numbers."""
        first = self.first[start : stop + 1]
        return replace(
            self,
            first=first - first[0],
            prompt=self.prompt[start:stop],
            segment=self.segment[first[0] : first[-1]],
            session=self.session[start:stop],
        )
