"""Depth-first search for the cheapest fleet under rules. Plain functions for `simulator.native`.

Options are taken one by one, so many instances of each. What is still needed of a row, what a loss would take of it,
limits and option types say early which counts lead nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from melange_sky.simulator.native import Program

if TYPE_CHECKING:
    from melange_sky.simulator.state import FloatRows, Floats, Whole

GAVE_UP = -1.0

_ROUNDING = 1e-9


class RuledCover(NamedTuple):
    """min max_t (spent_t0 + Σ_j cost_tj(n_j)) where every row, limit and number of types is kept, 0 ≤ n ≤ most.

    `cost`, (tariffs × options by counts), is what so many instances cost: never less for more. A row asks that
    Σ worth × n, (options × rows), be at least 1, where it is `lossy` after any `spare` instances of one model, or
    all of it, are lost; it is of the options of its `owner` alone, or else of several models. Σ counted × n,
    (options × limits), lies between `lower` and `upper`; `reach`, (options + 1 × limits), is the most that options
    from a place on add. Each model runs on so many options as `kinds` says: least (of those that `serve`), most,
    models, spare. Options stand model by model, each from its `first` on; no fleet of one costs less than its
    `floor`, (tariffs × models), none of all less than `least`, (1). `cheap`, (tariffs × (options + 1) by rows), is
    the least price of a whole row from a place on beyond what is free there, `idle`, (options + 1 × rows). `left`,
    `spent` and `used` are of the options before a place; `best` becomes the counts.
    """

    cost: FloatRows
    most: Whole
    worth: FloatRows
    lossy: Whole
    owner: Whole
    first: Whole
    floor: FloatRows
    least: Floats
    model: Whole
    serve: Whole
    kinds: Whole
    counted: FloatRows
    lower: Floats
    upper: Floats
    reach: FloatRows
    cheap: FloatRows
    idle: FloatRows
    left: FloatRows
    spent: FloatRows
    used: FloatRows
    counts: Whole
    best: Whole


def _lost(c: RuledCover, at: int, row: int) -> float:
    """Return the most that a loss takes of a row from the options before a place."""
    if c.lossy[row] == 0:
        return 0.0
    most = 0.0
    for model in range(c.kinds[2]):
        left, lost, below = c.kinds[3], 0.0, 1e300
        while left > 0:
            worth, count = 0.0, 0
            for k in range(at):
                here = c.worth[k, row]
                if c.model[k] == model and c.counts[k] > 0 and here < below:
                    if here > worth:
                        worth, count = here, c.counts[k]
                    elif here == worth:
                        count += c.counts[k]
            if worth <= 0.0:
                left = 0
            else:
                taken = min(left, count)
                lost += worth * float(taken)
                left -= taken
                below = worth
        most = max(most, lost)
    return most


def _lacks(c: RuledCover, at: int) -> bool:
    """Return whether anything is still needed from a place on."""
    for row in range(len(c.lossy)):
        if c.left[at, row] + _lost(c, at, row) > 1e-12:
            return True
    for limit in range(len(c.lower)):
        if c.used[at, limit] < c.lower[limit] - _ROUNDING:
            return True
    if c.kinds[0] > 0:
        for model in range(c.kinds[2]):
            if _types(c, at, model) < c.kinds[0]:
                return True
    return False


def _types(c: RuledCover, at: int, model: int) -> int:
    """Return on how many options a model runs that can serve it."""
    kinds = 0
    for k in range(at):
        if c.model[k] == model and c.counts[k] > 0:
            kinds += c.serve[k]
    return kinds


def _breaks(c: RuledCover, at: int) -> bool:
    """Return whether the options before a place break a limit or a number of types, whatever the others are."""
    for limit in range(len(c.lower)):
        used = c.used[at, limit]
        if used > c.upper[limit] + _ROUNDING:
            return True
        if used + c.reach[at, limit] < c.lower[limit] - _ROUNDING:
            return True
    for model in range(c.kinds[2]):
        kinds, serving = 0, 0
        for k in range(len(c.most)):
            if c.model[k] == model:
                if k >= at:
                    serving += c.serve[k] if c.most[k] > 0 else 0
                elif c.counts[k] > 0:
                    kinds += 1
                    serving += c.serve[k]
        if kinds > c.kinds[1] or serving < c.kinds[0]:
            return True
    return False


def _dearer(c: RuledCover, at: int, than: float) -> bool:
    """Return whether all that the options before allow costs as much as `than`.

    By what the rest of each model's dearest row costs, all models together, or that of a row of several.
    """
    models = c.kinds[2]
    for tariff in range(len(c.spent)):
        room, apart = than - c.spent[tariff, at], 0.0
        if room <= 0.0:
            return True
        for owner in range(models + 1):
            most = _rest(c, at, tariff, owner)
            if most >= room:
                return True
            if owner < models:
                apart += most
        if apart >= room:
            return True
    return False


def _rest(c: RuledCover, at: int, tariff: int, owner: int) -> float:
    """Return what is left of an owner's dearest row at its least price; of a model not begun at least its floor."""
    most, base = 0.0, tariff * (len(c.most) + 1) + at
    if owner < c.kinds[2] and c.first[owner] >= at:
        most = c.floor[tariff, owner]
    for row in range(len(c.lossy)):
        if c.owner[row] == owner:
            rest = c.left[at, row] + _lost(c, at, row) - c.idle[at, row]
            if rest > 1e-12:
                most = max(most, rest * c.cheap[base, row])
    return most


def _enough(c: RuledCover, at: int) -> int:
    """Return how many of an option do all that it can for what is left."""
    enough = 1 if c.kinds[0] > 0 else 0
    for row in range(len(c.lossy)):
        rest, worth = c.left[at, row] + _lost(c, at, row), c.worth[at, row]
        if rest > 1e-12 and worth > 0.0:
            needed = min(rest / worth, 1e9)
            whole = int(needed)
            if float(whole) < needed:
                whole += 1
            enough = max(enough, whole + (c.kinds[3] if c.lossy[row] > 0 else 0))
    for limit in range(len(c.lower)):
        short, counted = c.lower[limit] - c.used[at, limit], c.counted[at, limit]
        if short > 0.0 and counted > 0.0:
            enough = max(enough, int(short / counted) + 1)
    return int(min(enough, c.most[at]))


def _take(c: RuledCover, at: int, count: int) -> None:
    c.counts[at] = count
    number, options = float(count), len(c.most)
    for tariff in range(len(c.spent)):
        c.spent[tariff, at + 1] = c.spent[tariff, at] + c.cost[tariff * options + at, count]
    for row in range(len(c.lossy)):
        c.left[at + 1, row] = c.left[at, row] - c.worth[at, row] * number
    for limit in range(len(c.lower)):
        c.used[at + 1, limit] = c.used[at, limit] + c.counted[at, limit] * number


def _found(c: RuledCover, at: int) -> float:
    """Keep the counts up to a place as the best; return what they cost."""
    cost = -1e300
    for tariff in range(len(c.spent)):
        cost = max(cost, c.spent[tariff, at + 1])
    for k in range(len(c.most)):
        c.best[k] = c.counts[k] if k <= at else 0
    return cost


def cheapest_ruled_cover(c: RuledCover, below: float, most_nodes: int) -> float:
    """Return the least cost, `below` where no cost is less, GAVE_UP after too many nodes."""
    options = len(c.most)
    best, at, nodes = below, 0, 0
    _take(c, 0, _enough(c, 0))
    while at >= 0:
        nodes += 1
        if nodes > most_nodes:
            return GAVE_UP
        deeper = False
        if not _breaks(c, at + 1) and not _dearer(c, at + 1, best):
            if not _lacks(c, at + 1):
                best = _found(c, at)
                if best <= c.least[0] * (1.0 + 1e-12):
                    return best
            else:
                deeper = at + 1 < options
        if deeper:
            at += 1
            _take(c, at, _enough(c, at))
        else:
            while at >= 0 and c.counts[at] == 0:
                at -= 1
            if at >= 0:
                _take(c, at, c.counts[at] - 1)
    return best


_PROGRAM = Program(cheapest_ruled_cover)
(cheapest_ruled_cover_fast,) = _PROGRAM.entries()
