"""The sizes of requests as the closed forms take them: one array each of prompts and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSizes:
    """Request sizes in tokens, each of shape (cells,).

    `found_tokens` of each input are found in a prefix cache on average, None for none of any.
    """

    input_tokens: Floats
    output_tokens: Floats
    found_tokens: Floats | None = None

    def of(self, wanted: NDArray[np.bool_]) -> RequestSizes:
        """Return only those of the cells that are wanted."""
        found = self.found_tokens
        return RequestSizes(
            input_tokens=self.input_tokens[wanted],
            output_tokens=self.output_tokens[wanted],
            found_tokens=None if found is None else found[wanted],
        )
