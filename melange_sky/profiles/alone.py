"""A single request on an idle replica: the least that an SLO asks of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.slo import SLO


def missed_alone(ttft_s: float, tpot_s: float, slo: SLO, *, waits: bool = False) -> str | None:
    """Say which limit a request misses even alone on the replica, None for none (NaN: no TPOT).

    `waits` where the time to the first token counts waiting for other batches.
    """
    if slo.tpot_s is not None and tpot_s > slo.tpot_s:
        return f"TPOT is {tpot_s * 1e3:.1f} ms even alone, the limit is {slo.tpot_s * 1e3:g} ms"
    if slo.ttft_s is not None and ttft_s > slo.ttft_s:
        how = "between other batches" if waits else "even alone"
        return f"TTFT is {ttft_s * 1e3:.0f} ms {how}, the limit is {slo.ttft_s * 1e3:g} ms"
    return None
