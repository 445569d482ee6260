"""Numbers that are allowed and hardly meant: asked about, unless the spec says that they are.

A limit in seconds where milliseconds are asked, a fraction that is a slip: such a plan would cost real money
for a typing error. Who means it lists the key under ``unusual``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from melange_sky.errors import did_you_mean
from melange_sky.spec.schema import MOST_RPS

if TYPE_CHECKING:
    from melange_sky.spec.problems import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What is usual of one key: from `low` to `high`, and what to say of anything else.

    `factor_below`, `factor_above`: what a number beyond was probably to be multiplied by. Beyond `most`,
    the schema refuses a number by itself.
    """

    key: str
    low: float
    high: float
    below: str = ""
    above: str = ""
    factor_below: float | None = None
    factor_above: float | None = None
    most: float = math.inf

    def problem(self, value: float) -> str | None:
        """Return what to ask about a number, None for a usual one."""
        if self.low <= value <= self.high or value > self.most:
            return None
        is_below = value < self.low
        factor = self.factor_below if is_below else self.factor_above
        name = self.key.rpartition(".")[2]
        meant = "" if factor is None else f"; {name}: {value * factor:.6g} was probably meant"
        said = (self.below if is_below else self.above).format(value=f"{value:g}")
        return f"{said}{meant}; if it is real, add unusual: [{self.key}] to the spec"


RULES = (
    Usual(
        key="slo.tpot_ms",
        low=1.0,
        high=10_000.0,
        below="{value} ms per token is faster than any GPU generates",
        above="{value} ms per token is slower than anyone waits",
        factor_below=1000.0,
        factor_above=0.001,
    ),
    Usual(
        key="slo.ttft_ms",
        low=5.0,
        high=600_000.0,
        below="{value} ms to the first token is faster than any network and GPU answer",
        above="{value} ms to the first token is more than ten minutes",
        factor_below=1000.0,
        factor_above=0.001,
    ),
    Usual(
        key="slo.attainment",
        low=0.5,
        high=1.0,
        most=1.0,
        below="{value} of the requests in time lets most miss every limit; 0.95 is usual",
    ),
    Usual(
        key="workload.rate_rps",
        low=1e-5,
        high=100_000.0,
        most=MOST_RPS,
        below="{value} requests per second is less than one a day",
        above="{value} requests per second is more than any service has; it is per second, not per minute or day",
    ),
)
"""What is usual, key by key. TPOT: a small model on the fastest GPU takes about 2 ms a token."""


def check_plausible(raw: dict[str, Any], meant: Sequence[str], place: Place) -> None:
    """Note numbers of a spec that are hardly meant; `meant` are the keys whose numbers are as written."""
    known = [rule.key for rule in RULES]
    for k, key in enumerate(meant):
        if key not in known:
            hint = did_you_mean(key, known) or f"; known: {', '.join(known)}"
            (place / "unusual" / k).add(f"no number of '{key[:60]}' is asked about{hint}")
    served = [(place, raw)]
    models = raw.get("models")
    if isinstance(models, list):
        entries = enumerate(models)
        served += [(place / "models" / i, entry) for i, entry in entries if isinstance(entry, dict)]
    for rule in RULES:
        if rule.key in meant:
            continue
        section, _, name = rule.key.partition(".")
        for at, one in served:
            value = one[section].get(name) if isinstance(one.get(section), dict) else None
            problem = rule.problem(value) if _is_number(value) else None
            if problem is not None:
                (at / section / name).add(problem)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
