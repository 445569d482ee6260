"""What the options of a plan are called and coloured in all its figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.capacities import Origin, weakest
from melange_sky.report.figures.chart import Key
from melange_sky.report.figures.style import HATCHES, MUTED, hatch_of, letter_of, series_colour

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melange_sky.plans import ModelPlan

ORIGIN_WORDS = {
    Origin.MEASURED: "measured",
    Origin.GIVEN: "given in the config",
    Origin.OBSERVED: "learnt from observed traffic",
    Origin.INTERPOLATED: "interpolated from measurements",
    Origin.CALIBRATED: "calibrated on a few measurements",
    Origin.ESTIMATED: "estimated",
    Origin.BOUND: "upper bound, not simulated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One shape of instances: its letter and colour."""

    letter: str
    shape: str
    colour: str

    @property
    def label(self) -> str:
        """Letter and shape."""
        return f"{self.letter}  {self.shape}"


def series_of(model: ModelPlan) -> dict[str, Series]:
    """Return the series of each shape in use, lettered as in `explain`: by name."""
    shapes = sorted({a.candidate.option.shape for a in model.allocations})
    return {
        shape: Series(letter=letter_of(n), shape=shape, colour=series_colour(n))
        for n, shape in enumerate(shapes)
    }


def origin_keys(origins: Iterable[Origin | None]) -> tuple[Key, ...]:
    """Return legend entries for the hatches in use, best known first."""
    used = set(origins)
    return tuple(
        Key(label=ORIGIN_WORDS[origin], colour=MUTED, hatch=hatch_of(origin))
        for origin in HATCHES
        if origin in used
    )


def origin_text(origins: Iterable[Origin | None], what: str = "Capacities") -> str:
    """Return where the numbers are from, in a sentence."""
    used = {origin for origin in origins if origin is not None}
    if not used:
        return f"{what}: origin not known."
    named = [ORIGIN_WORDS[origin] for origin in HATCHES if origin in used]
    return f"{what}: {', '.join(named)}."


def alone_origin(model: ModelPlan, accelerator: str) -> Origin | None:
    """Return how the capacities of one accelerator are known, the weakest of those that could serve."""
    return weakest(
        cell.origin
        for candidate in model.candidates
        if candidate.option.accelerator == accelerator
        for i, j in model.workload.buckets()
        if (cell := candidate.cells[i][j]).origin is not None and cell.largest_rps is not None
    )
