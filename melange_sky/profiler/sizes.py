"""Which request sizes to measure: lines of a grid between which interpolation is good enough.

An estimate of the rates, however wrong its scale, has about the right curvature. So the lines are
chosen before anything is rented: start with the outermost input and output sizes, then add the line
that lowers the expected plan-cost error most, until the bound is met. Between the lines planning
interpolates log rate, bilinear in log sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Input and output sizes in tokens to measure in all combinations.

    `expected_error` is the fraction by which the plan's cost is expected to be off.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    expected_error: float

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """All combinations, the cheapest requests first."""
        both = [(i, o) for i in self.inputs for o in self.outputs]
        return sorted(both, key=lambda size: (size[0] / 10 + size[1], size))


def choose_lines(
    inputs: Sequence[int],
    outputs: Sequence[int],
    rates_rps: Floats,
    weights: Floats,
    bound: float = 0.05,
) -> Lines:
    """Choose lines among `inputs` × `outputs` (ascending).

    `rates_rps`, shape (I, O): estimated highest rates, NaN where the size cannot be served.
    `weights`, shape (I, O): the request rate of each size. A size's share of the cost is
    weight ÷ rate; the expected error is Σ share × |interpolated cost ÷ cost − 1|.
    """
    served = np.isfinite(rates_rps) & (rates_rps > 0)
    cost = np.where(served, weights / np.where(served, rates_rps, 1.0), 0.0)
    total = float(cost.sum())
    share = cost / total if total > 0 else cost
    log_cost = np.where(served, -np.log(np.where(served, rates_rps, 1.0)), np.nan)
    x, y = np.log(np.asarray(inputs, dtype=float)), np.log(np.asarray(outputs, dtype=float))
    chosen = (_ends(len(inputs)), _ends(len(outputs)))
    error = _error(log_cost, share, (x, y), chosen)
    while error > bound:
        trials = [
            (axis, index)
            for axis, count in enumerate((len(inputs), len(outputs)))
            for index in range(count)
            if index not in chosen[axis]
        ]
        if not trials:
            break
        grown = {t: _with(chosen, *t) for t in trials}
        errors = {t: _error(log_cost, share, (x, y), grown[t]) for t in trials}
        # By what a line gains per cell that it adds; a line that gains nothing yet may be needed too.
        best = max(trials, key=lambda t: ((error - errors[t]) / len(chosen[1 - t[0]]), -t[1]))
        chosen, error = grown[best], errors[best]
    return Lines(
        inputs=tuple(inputs[i] for i in chosen[0]), outputs=tuple(outputs[j] for j in chosen[1]),
        expected_error=error,
    )  # fmt: skip


Chosen = tuple[tuple[int, ...], tuple[int, ...]]


def _ends(count: int) -> tuple[int, ...]:
    return (0,) if count == 1 else (0, count - 1)


def _with(chosen: Chosen, axis: int, index: int) -> Chosen:
    grown = tuple(sorted((*chosen[axis], index)))
    return (grown, chosen[1]) if axis == 0 else (chosen[0], grown)


def _error(log_cost: Floats, share: Floats, axes: tuple[Floats, Floats], chosen: Chosen) -> float:
    """Return the expected relative error of the cost; a size that cannot be interpolated counts 1."""
    guess = interpolate(log_cost, axes, chosen)
    off = np.where(np.isfinite(guess), np.abs(np.expm1(guess - log_cost)), 1.0)
    return float(np.nansum(np.where(share > 0, share * off, 0.0)))


def interpolate(values: Floats, axes: tuple[Floats, Floats], chosen: Chosen) -> Floats:
    """Interpolate the whole grid from the chosen rows and columns, bilinear along `axes`."""
    rows, columns = np.array(chosen[0]), np.array(chosen[1])
    across = np.stack([np.interp(axes[1], axes[1][columns], values[r, columns]) for r in rows])
    return np.stack(
        [np.interp(axes[0], axes[0][rows], across[:, j]) for j in range(values.shape[1])], axis=1
    )
