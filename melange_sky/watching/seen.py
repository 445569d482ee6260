"""What one look at a fleet told: rates, attainment, replicas, and what of it cannot be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FaultCode = Literal["missing", "frozen", "reset", "clock", "renamed", "unreachable", "taken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A signal that cannot be believed: its code, and one line that says where and what.

    missing: a value is not there; frozen: it does not move though others do; reset: a counter fell; clock: time
    went back or leapt; renamed: the source speaks, but not of what is looked for; unreachable: nobody answers; taken: another watcher
    changed the fleet since.
    """

    code: FaultCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look. Unknown is None, never 0; any fault means that nothing shrinks.

    `time` in seconds since 1970. `rate_rps` is what is asked for, refused requests among it, in requests per
    second since the look before; `bucket_rates`, (input × output sizes of the plan's grid), its parts;
    `refused_rps` the part that was turned away. `attainment` is the fraction of finished requests within the SLO
    since the look before, `queue` how many requests wait. `live` are replicas that are ready, `starting` those
    that are paid but do not serve yet, by option. `prices_as_of` says how old the prices are that are known.
    """

    time: float
    rate_rps: float | None = None
    bucket_rates: NDArray[np.float64] | None = None
    refused_rps: float | None = None
    attainment: float | None = None
    queue: float | None = None
    live: Mapping[str, int] | None = None
    starting: Mapping[str, int] = field(default_factory=dict)
    prices_as_of: str | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether demand and replicas are known, and nothing speaks against them."""
        return not self.faults and self.rate_rps is not None and self.live is not None
