"""The cheapest fleets of many cells at once. Plain functions for `simulator.native`, which makes machine code of them.

Depth first over whole counts, option by option. What is left of a row costs at least its cheapest instances, and at
least what the row's own worth of money says (Lagrange), which knows that cheap instances are few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from melange_sky.simulator.native import Program

if TYPE_CHECKING:
    from melange_sky.simulator.state import FloatRows, Floats, Whole, WholeRows

MOST_ROWS = 32
"""So many worths of a cell are kept to at a time."""

_TRIES = 4
"""So often a search that took too many nodes begins again for fleets of half as much above the bound so far."""

_ROUNDING = 1e-9
_NONE = 1e300


class Cells(NamedTuple):
    """min Σ_j cost_j(n_j) with worth · n ≥ rate for every worth, n ≥ 0 whole, in every cell.

    `cost`, (cells · options × counts), is what so many instances cost: each no less than the one before. `along`,
    (cells × options), is a worth along each cell's prices, `worth`, (worths × options), are those known, of which
    `kept`, (cells × 1 + MOST_ROWS), holds how many a cell keeps to and which. `fleets` × options are known to serve
    `serves`, (fleets). `counts`, (cells × options), become the fleets, `least`, (cells), what none costs less than.
    The rest is room to work in: `row` and what is like it (MOST_ROWS × …), `left` (options + 1 × MOST_ROWS).
    """

    cost: FloatRows
    rate: Floats
    along: FloatRows
    worth: FloatRows
    kept: WholeRows
    fleets: WholeRows
    serves: Floats
    counts: WholeRows
    least: Floats
    row: FloatRows
    left: FloatRows
    cheap: FloatRows
    rest: FloatRows
    money: Floats
    spent: Floats
    order: Whole
    here: Whole
    best: Whole
    strict: Whole


def _priced(c: Cells, g: int, counts: WholeRows, at: int) -> float:
    """Return what a fleet, a row of counts, costs in a cell."""
    options, most, total = len(c.order), len(c.cost[0]) - 1, 0.0
    for j in range(options):
        count = counts[at, j]
        if count > most:
            return _NONE
        total += c.cost[g * options + j, count]
    return total


def _best_known(c: Cells, g: int) -> float:
    """Let a cell begin with the cheapest fleet that is known to serve it; return its cost."""
    options, least, found = len(c.order), _NONE, -1
    for f in range(len(c.serves)):
        if c.serves[f] >= c.rate[g]:
            total = _priced(c, g, c.fleets, f)
            if total < least:
                least, found = total, f
    if found >= 0:
        for j in range(options):
            c.counts[g, j] = c.fleets[found, j]
    return least


def _missed(c: Cells, g: int) -> int:
    """Return the known worth that the fleet at hand misses most in a cell, -1 for none."""
    found, lowest = -1, c.rate[g] * (1.0 - _ROUNDING)
    for w in range(len(c.worth)):
        total = 0.0
        for j in range(len(c.order)):
            total += c.worth[w, j] * float(c.best[j])
        if total < lowest:
            found, lowest = w, total
    return found


def _ordered(c: Cells, g: int) -> None:
    """Put the options in order of their dearest instance."""
    options, most = len(c.order), len(c.cost[0]) - 1
    for j in range(options):
        place = j
        price = c.cost[g * options + j, most] - c.cost[g * options + j, most - 1]
        while place > 0:
            other = g * options + c.order[place - 1]
            if c.cost[other, most] - c.cost[other, most - 1] >= price:
                break
            c.order[place] = c.order[place - 1]
            place -= 1
        c.order[place] = j


def _paying(c: Cells, g: int, j: int, price: float) -> int:
    """Return how many instances of an option cost no more than a price, one by one."""
    base, able, beyond = g * len(c.order) + j, 0, len(c.cost[0])
    while beyond - able > 1:
        middle = (able + beyond) // 2
        if c.cost[base, middle] - c.cost[base, middle - 1] <= price:
            able = middle
        else:
            beyond = middle
    return able


def _worth_of_money(c: Cells, g: int, r: int) -> float:
    """Return the price of a whole row at which as many instances as pay just fill it."""
    options, most = len(c.order), len(c.cost[0]) - 1
    low, high = 0.0, 0.0
    for j in range(options):
        if c.row[r, j] > 1e-9:
            last = c.cost[g * options + j, most] - c.cost[g * options + j, most - 1]
            high = max(high, last / c.row[r, j])
    for _ in range(30):
        price, filled = 0.5 * (low + high), 0.0
        for j in range(options):
            filled += c.row[r, j] * float(_paying(c, g, j, price * c.row[r, j]))
        if filled >= 1.0:
            high = price
        else:
            low = price
    return high


def _ready(c: Cells, g: int, r: int) -> None:
    """Work out what a row's rest costs at least from each option on."""
    options = len(c.order)
    money = _worth_of_money(c, g, r)
    c.money[r] = money
    c.cheap[options, r], c.rest[options, r], c.left[0, r] = _NONE, 0.0, 1.0
    for k in range(options):
        at = options - 1 - k
        j = c.order[at]
        base, worth = g * options + j, c.row[r, j]
        cheap = c.cheap[at + 1, r]
        if worth > 0.0:
            cheap = min(cheap, c.cost[base, 1] / worth)
        paying = _paying(c, g, j, money * worth)
        saved = min(c.cost[base, paying] - money * worth * float(paying), 0.0)
        c.cheap[at, r] = cheap
        c.rest[at, r] = c.rest[at + 1, r] + saved * (1.0 + 1e-12)


def _enough(c: Cells, g: int, at: int, rows: int, room: float) -> int:
    """Return how many of an option do all that it can for what is left, or cost less than there is room for."""
    enough, j = 0, c.order[at]
    for r in range(rows):
        left, worth = c.left[at, r], c.row[r, j]
        if left > 1e-12 and worth > 0.0:
            needed = min(left / worth, 1e9)
            whole = int(needed)
            if float(whole) < needed:
                whole += 1
            enough = max(enough, whole)
    able, beyond, base = 0, min(enough, len(c.cost[0]) - 1) + 1, g * len(c.order) + j
    while beyond - able > 1:
        middle = (able + beyond) // 2
        if c.cost[base, middle] < room:
            able = middle
        else:
            beyond = middle
    return able


def _may_cost(c: Cells, at: int, r: int, room: float) -> bool:
    """Take the count of an option off what is left of a row; return whether its rest may cost less than a room."""
    j = c.order[at]
    left = c.left[at, r] - c.row[r, j] * float(c.here[j])
    c.left[at + 1, r] = left
    dear = c.money[r] * left + c.rest[at + 1, r] >= room
    return not dear and (left <= 1e-12 or left * c.cheap[at + 1, r] < room)


def _leads_on(c: Cells, at: int, rows: int, room: float) -> bool:
    """Take the count of an option off what is left; return whether the rest may cost less than there is room for.

    The row that said no last time is asked first: it mostly says so again.
    """
    if not _may_cost(c, at, c.strict[at], room):
        return False
    for r in range(rows):
        if not _may_cost(c, at, r, room):
            c.strict[at] = r
            return False
    return True


def _serves(c: Cells, at: int, rows: int) -> bool:
    """Return whether nothing is left of any row."""
    most = 0.0
    for r in range(rows):
        most = max(most, c.left[at, r])
    return most <= 1e-12


def _searched(c: Cells, g: int, rows: int, below: float, most_nodes: int, within: float) -> float:
    """Return the least cost but for a part `within`, `below` where none is less, -1 after too many nodes.

    `best` has the fleet.
    """
    options = len(c.order)
    best, at, nodes = below, 0, 0
    c.spent[0] = 0.0
    sought = best * (1.0 - within)
    c.here[c.order[0]] = _enough(c, g, 0, rows, sought)
    while at >= 0:
        nodes += 1
        if nodes > most_nodes:
            return -1.0
        j = c.order[at]
        spent, deeper = c.spent[at] + c.cost[g * options + j, c.here[j]], False
        if spent < sought and _leads_on(c, at, rows, sought - spent):
            if _serves(c, at + 1, rows):
                best = spent
                sought = best * (1.0 - within)
                for k in range(options):
                    c.best[c.order[k]] = c.here[c.order[k]] if k <= at else 0
            elif at + 1 < options:
                deeper = True
        if deeper:
            at += 1
            c.spent[at] = spent
            c.here[c.order[at]] = _enough(c, g, at, rows, sought - spent)
        else:
            while at >= 0 and c.here[c.order[at]] == 0:
                at -= 1
            if at >= 0:
                c.here[c.order[at]] -= 1
    return best


def _begun(c: Cells, g: int, rows: int) -> float:
    """Let the best fleet be the one that the cell has; return what by one row none costs less than."""
    for j in range(len(c.order)):
        c.best[j] = c.counts[g, j]
        c.strict[j] = 0
    lowest = 0.0
    for r in range(rows):
        lowest = max(lowest, c.money[r] + c.rest[0, r])
    return lowest


def _take_row(c: Cells, g: int, r: int, worths: FloatRows, w: int) -> None:
    """Let a cell keep to a worth, as its row r."""
    for j in range(len(c.order)):
        c.row[r, j] = worths[w, j] / c.rate[g]
    _ready(c, g, r)


def _take_best(c: Cells, g: int) -> None:
    """Let a cell have the best fleet found."""
    for j in range(len(c.order)):
        c.counts[g, j] = c.best[j]


def _least_of(c: Cells, g: int, most_nodes: int, within: float) -> float:
    """Return what no fleet costs less than in a cell; its counts become the cheapest but for a part `within`."""
    rows, lowest, tries = 1, 0.0, _TRIES
    below = _best_known(c, g)
    if below <= 0.0:
        return 0.0
    _ordered(c, g)
    _take_row(c, g, 0, c.along, g)
    for n in range(c.kept[g, 0]):
        _take_row(c, g, rows, c.worth, c.kept[g, 1 + n])
        rows += 1
    while True:
        lowest = max(lowest, _begun(c, g, rows))
        found = _searched(c, g, rows, below, most_nodes, within)
        missed = -1 if found >= below else _missed(c, g)
        if missed < 0:
            _take_best(c, g)
        if found >= 0.0:
            lowest = max(lowest, found * (1.0 - within - 1e-12))
            if missed < 0:
                return lowest
        elif tries == 0:
            return lowest
        else:
            tries -= 1
            below = 0.5 * (lowest + below)
        if missed >= 0:
            if rows >= MOST_ROWS:
                c.kept[g, 0] = 0
                return lowest
            c.kept[g, 0] += 1
            c.kept[g, c.kept[g, 0]] = missed
            _take_row(c, g, rows, c.worth, missed)
            rows += 1


def cheapest_fleets(c: Cells, most_nodes: int, within: float) -> None:
    """Work out what every cell costs at least and its cheapest fleet but for a part `within` of the cost.

    What takes too many nodes has a lower bound.
    """
    for g in range(len(c.rate)):
        c.least[g] = _least_of(c, g, most_nodes, within)


_PROGRAM = Program(cheapest_fleets)
(cheapest_fleets_fast,) = _PROGRAM.entries()
