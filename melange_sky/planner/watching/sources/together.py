"""Looks of several sources as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from melange_sky.watching.seen import Seen

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Source(Protocol):
    """What is looked at again and again."""

    def see(self) -> Seen:
        """Return what came since the look before; never raises, but tells by `faults`."""
        ...


def added(looks: Sequence[Seen], time_s: float) -> Seen:
    """Return the looks of servers that share one traffic: their rates add up, and they see the same replicas.

    What one of them does not know is not known of the sum.
    """
    counted: list[Floats] = [s.bucket_rates for s in looks if s.bucket_rates is not None]
    lives = [s.live for s in looks if s.live is not None]
    live = {name: max(one.get(name, 0) for one in lives) for one in lives for name in one}
    return Seen(
        time=time_s,
        rate_rps=_sum(s.rate_rps for s in looks),
        bucket_rates=sum(counted[1:], counted[0])
        if counted and len(counted) == len(looks)
        else None,
        refused_rps=_sum(s.refused_rps for s in looks),
        attainment=_attainment(looks),
        queue=_sum(s.queue for s in looks),
        live=live if len(lives) == len(looks) else None,
        faults=tuple(dict.fromkeys(fault for s in looks for fault in s.faults)),
    )


def _sum(parts: Iterable[float | None]) -> float | None:
    values = list(parts)
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _attainment(looks: Sequence[Seen]) -> float | None:
    """Return the mean by rate of those that know theirs."""
    known = [
        (s.attainment, s.rate_rps)
        for s in looks
        if s.attainment is not None and s.rate_rps is not None
    ]
    whole = sum(rate for _, rate in known)
    return sum(a * rate for a, rate in known) / whole if whole > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Several sources of one fleet: what the first does not know, the next may; all their faults count.

    `prices_as_of` says how old the prices of the plan are, which none of them knows.
    """

    sources: Sequence[Source]
    clock: Callable[[], float]
    prices_as_of: str | None = None

    def see(self) -> Seen:
        """Return the looks as one."""
        whole = Seen(time=self.clock(), prices_as_of=self.prices_as_of)
        for source in self.sources:
            seen = source.see()
            whole = replace(
                whole,
                **{
                    name: getattr(seen, name)
                    for name in ("queue", "live", "attainment")
                    if getattr(whole, name) is None
                },
                starting=seen.starting if whole.live is None else whole.starting,
                faults=(*whole.faults, *seen.faults),
            )
            if (
                whole.rate_rps is None and seen.rate_rps is not None
            ):  # of one source, or they disagree
                whole = replace(
                    whole,
                    rate_rps=seen.rate_rps,
                    bucket_rates=seen.bucket_rates,
                    refused_rps=seen.refused_rps,
                )
        return whole
