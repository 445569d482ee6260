"""What is owned already, as the question has it: of one model's options, or shared among several models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InputError
from melange_sky.reserve.question import Purchase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from melange_sky.capacities import OptionCapacity
    from melange_sky.commitments import Owned
    from melange_sky.planner.reserving.material import Given
    from melange_sky.reserve.question import Question

    Floats = NDArray[np.float64]


def owned_units(
    given: Given, candidates: Mapping[str, OptionCapacity]
) -> tuple[Floats | None, tuple[Purchase, ...]]:
    """Return what one model alone can use, (periods × options): of a type, as its first option; and what several can.

    `candidates` are the question's options by name. Raises InputError for what none of them can use.
    """
    if not given.owned:
        return None, ()
    names, listed = list(candidates), list(candidates.values())
    units = np.zeros((len(given.demand.starts), len(names)))
    shared = []
    for own in given.owned:
        found = list(_options_of(own, listed))
        if not found:
            raise InputError(
                f"{own.where}: {own.instance_type} on {own.cloud} serves no size of this model within its SLO; leave it out"
            )
        first = {names[k].rpartition(": ")[0]: k for k in reversed(found)}
        held = np.array([own.holds(start) for start in given.demand.starts])
        if len(first) == 1:
            units[:, found[0]] += own.count / listed[found[0]].option.nodes * held
            continue
        draws = {k: float(listed[k].option.nodes) for k in sorted(first.values())}
        name = f"owned {own.instance_type}"
        shared.append(Purchase(name=name, usd=0.0, draws=draws, most=own.count, active=held))
    return np.floor(units), tuple(shared)


def owned_running(question: Question, fleets: Floats) -> Floats:
    """Return the owned instances by the option that they run as, (periods × options), beside an answer's fleets.

    Shared ones go to the options that an hour's fleet has, the rest to the first of them.
    """
    owned = question.owned_units()
    left = np.maximum(np.round(fleets) - owned, 0.0)
    for purchase in question.shared:
        rest = np.where(question.active(purchase), float(purchase.most), 0.0)
        owned = owned + given_out(purchase, rest, left)
    return owned


def given_out(purchase: Purchase, rest: Floats, left: Floats) -> Floats:
    """Return the options that units of a purchase, (periods), run as, (periods × options).

    What fills instances that are `left`, (periods × options), is taken from these; other units go to the first option.
    """
    units = np.zeros(left.shape)
    for k, draw in purchase.draws.items():
        taken = np.minimum(np.floor(rest / draw), left[:, k])
        units[:, k] += taken
        left[:, k] -= taken
        rest = rest - taken * draw
    first, draw = next(iter(purchase.draws.items()))
    units[:, first] += np.floor(rest / draw)
    return units


def _options_of(own: Owned, candidates: Sequence[OptionCapacity]) -> Iterator[int]:
    for k, candidate in enumerate(candidates):
        offer = candidate.option.offer
        if offer is None or candidate.option.use_spot:
            continue
        if (offer.cloud, offer.instance_type) != (own.cloud, own.instance_type):
            continue
        if own.region in ("", offer.region):
            yield k
