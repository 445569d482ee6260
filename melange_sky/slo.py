"""Service-level objectives and the records that are judged by them.

Simulated and measured requests end in the same record, judged here, so that a verdict means the
same in both. Definitions (seconds from the moment the request was sent):

* TTFT = first output token received − request sent
* E2E  = last output token received − request sent
* TPOT = (E2E − TTFT) / (output tokens − 1); unknown (NaN / None) below 2 output tokens
* attainment = fraction of all requests, failed ones included, that meet every limit given
* goodput = requests per second that meet every limit given
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SLO:
    """Limits per request and the fraction of requests that must meet all of them.

    A limit that is None does not bind. `attainment` is a fraction in (0, 1].
    """

    tpot_s: float | None = None
    ttft_s: float | None = None
    attainment: float = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request as seen by its client. Times in seconds on one clock.

    `first_token_s` and `last_token_s` are None where no token came. `error` is None for a request
    that completed. `option` names the deployment option that served it, where known.
    """

    arrival_s: float
    input_tokens: int
    output_tokens: int
    first_token_s: float | None
    last_token_s: float | None
    error: str | None = None
    option: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, None if no token came."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> float | None:
        """Time to last token, None if no token came."""
        return None if self.last_token_s is None else self.last_token_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first, None below two tokens."""
        if self.first_token_s is None or self.last_token_s is None or self.output_tokens < 2:
            return None
        return (self.last_token_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestLog:
    """Many records as columns, each of shape (requests,). NaN where a record would hold None.

    `ok` is False for a failed request. `option` indexes into `options`, −1 where unknown.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    first_token_s: NDArray[np.float64]
    last_token_s: NDArray[np.float64]
    ok: NDArray[np.bool_]
    option: NDArray[np.int64]
    options: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.arrival_s.shape[0])

    @property
    def ttft_s(self) -> NDArray[np.float64]:
        """Time to first token, NaN where no token came."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> NDArray[np.float64]:
        """Time to last token, NaN where no token came."""
        return self.last_token_s - self.arrival_s

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """Time per output token after the first, NaN below two tokens."""
        gaps = self.output_tokens - 1
        return np.where(
            gaps > 0, (self.last_token_s - self.first_token_s) / np.maximum(gaps, 1), np.nan
        )

    def select(self, mask: NDArray[np.bool_]) -> RequestLog:
        """Return the rows where `mask` holds."""
        return RequestLog(
            arrival_s=self.arrival_s[mask],
            input_tokens=self.input_tokens[mask],
            output_tokens=self.output_tokens[mask],
            first_token_s=self.first_token_s[mask],
            last_token_s=self.last_token_s[mask],
            ok=self.ok[mask],
            option=self.option[mask],
            options=self.options,
        )

    @classmethod
    def from_records(cls, records: Sequence[RequestRecord]) -> RequestLog:
        """Turn records into columns."""
        options = tuple(sorted({r.option for r in records if r.option is not None}))
        index = {name: i for i, name in enumerate(options)}
        nan = math.nan
        return cls(
            arrival_s=np.array([r.arrival_s for r in records], dtype=np.float64),
            input_tokens=np.array([r.input_tokens for r in records], dtype=np.int64),
            output_tokens=np.array([r.output_tokens for r in records], dtype=np.int64),
            first_token_s=np.array(
                [nan if r.first_token_s is None else r.first_token_s for r in records],
                dtype=np.float64,
            ),
            last_token_s=np.array(
                [nan if r.last_token_s is None else r.last_token_s for r in records],
                dtype=np.float64,
            ),
            ok=np.array([r.error is None for r in records], dtype=np.bool_),
            option=np.array(
                [-1 if r.option is None else index[r.option] for r in records], dtype=np.int64
            ),
            options=options,
        )


def meets(log: RequestLog, slo: SLO) -> NDArray[np.bool_]:
    """Return, per request, whether it completed and met every limit given.

    A request of one output token has no TPOT and so cannot break the TPOT limit; a failed request
    meets nothing.
    """
    good: NDArray[np.bool_] = log.ok.copy()
    if slo.ttft_s is not None:
        good &= log.ttft_s <= slo.ttft_s
    if slo.tpot_s is not None:
        decoding_s = log.last_token_s - log.first_token_s
        tpot_s = decoding_s / np.maximum(log.output_tokens - 1, 1)
        good &= (log.output_tokens < 2) | (tpot_s <= slo.tpot_s)
    return good


def attainment_fraction(log: RequestLog, slo: SLO) -> float | None:
    """Return the fraction of requests that meet the SLO, None where there are no requests."""
    return float(meets(log, slo).mean()) if len(log) else None


def wilson_interval(successes: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (E. B. Wilson, JASA 1927).

    Counts may be fractional, as effective sample sizes are.

    >>> low, high = wilson_interval(95, 100)
    >>> round(low, 3), round(high, 3)
    (0.888, 0.978)
    """
    if trials <= 0:
        return 0.0, 1.0
    p = successes / trials
    denominator = 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / denominator
    return max(0.0, centre - half), min(1.0, centre + half)
