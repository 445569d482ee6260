"""What an hour of one GPU can cost at all, and what one price for several counts says of its unit.

The class of a GPU is its dense 16-bit rate. On demand the market of 2026 asks 0.0023 (H100 at Verda) to
0.025 USD per TFLOPS and hour (V100 on AWS, L4 in its largest host); marketplaces go to about half of the
former. What lies far outside is another unit or another column's number, whoever sells it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from melange_sky.accelerators import accelerator_table
from melange_sky.names.clouds import UNHOSTED_CLOUDS
from melange_sky.offers import FlagScope, gpu_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from melange_sky.offers import Offer

FLOOR_USD_PER_TFLOPS_HOUR = 0.0005
CEILING_USD_PER_TFLOPS_HOUR = 0.1
SPOT_FLOOR_FRACTION = 0.25
"""Spot may go to this fraction of the floor: clouds give up to 90 % off their own list price."""

SAME_PRICE = 1e-3
"""Prices of several counts that differ by less than this fraction are one price."""

LEAST_GPUS, APART_TFLOPS = 3, 3.0
"""So many GPUs, the fastest so many times as fast as the slowest, do not share one price per hour."""


class Finding(NamedTuple):
    """A price that cannot be: the offer's place in the list, the rule's code, what it touches, why."""

    at: int
    code: str
    touches: FlagScope
    message: str


def implausible(offers: Sequence[Offer]) -> Iterator[Finding]:
    """Yield what cannot be of one cloud's prices, whatever they were before."""
    for i, offer in enumerate(offers):
        yield from _out_of_class(i, offer)
    for use_spot in (False, True):
        yield from _one_price(offers, use_spot)
    yield from _one_price_for_gpus(offers)


def bounds_usd_per_hour(gpu: str) -> tuple[float, float] | None:
    """Return the least and the most that an hour of a GPU can cost on demand, None for an unknown one.

    >>> [round(bound, 2) for bound in bounds_usd_per_hour("H100")]
    [0.49, 98.9]
    """
    spec = accelerator_table().get(gpu)
    if spec is None:
        return None
    rate = spec.dense_tflops
    return FLOOR_USD_PER_TFLOPS_HOUR * rate, CEILING_USD_PER_TFLOPS_HOUR * rate


def _out_of_class(i: int, offer: Offer) -> Iterator[Finding]:
    bounds, gpu = bounds_usd_per_hour(gpu_of(offer)), offer.accelerator
    if bounds is None or not offer.accelerator_count > 0:
        return
    for use_spot, touches in ((False, FlagScope.ROW), (True, FlagScope.SPOT)):
        price = offer.price(use_spot)
        if price is None:
            continue
        each = price / offer.accelerator_count
        floor = bounds[0] * (SPOT_FLOOR_FRACTION if use_spot else 1)
        kind = "spot " if use_spot else ""
        # what one's own machines cost is one's own to say
        if each < floor and offer.cloud not in UNHOSTED_CLOUDS:
            message = (
                f"{kind}{each:g} $/h per GPU: no {gpu} is sold below {floor:.2g}; another unit?"
            )
            yield Finding(i, "below-gpu-floor", touches, message)
        elif each > bounds[1]:
            message = (
                f"{kind}{each:g} $/h per GPU: no {gpu} costs above {bounds[1]:.3g}; another unit?"
            )
            yield Finding(i, "above-gpu-ceiling", touches, message)


def _one_price(offers: Sequence[Offer], use_spot: bool) -> Iterator[Finding]:
    """Find instances of several counts at one price in a region: per GPU, or one row's number for all."""
    groups: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for i, offer in enumerate(offers):
        price = offer.price(use_spot)
        counted = all(flag.code != "impossible-count" for flag in offer.flags)
        if price is not None and price > 0 and counted:
            groups[offer.region, offer.accelerator].append((price, i))
    touches = FlagScope.SPOT if use_spot else FlagScope.ON_DEMAND
    for rows in groups.values():
        for same in _runs(sorted(rows)):
            counts = sorted({offers[i].accelerator_count for _, i in same})
            if len(counts) < 2:
                continue
            said = ", ".join(f"{count:g}" for count in counts)
            for price, i in same:
                kind = "spot " if use_spot else ""
                message = f"{kind}{price:g} $/h for {said} {offers[i].accelerator} alike: per GPU, not per instance?"
                yield Finding(i, "one-price-for-counts", touches, message)


def _one_price_for_gpus(offers: Sequence[Offer]) -> Iterator[Finding]:
    """Find GPUs of far different classes at one price per GPU in a region: a column's number, not a price."""
    groups: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for i, offer in enumerate(offers):
        price = offer.price_usd_per_hour
        if price is not None and price > 0 and offer.accelerator_count > 0:
            groups[offer.region].append((price / offer.accelerator_count, i))
    for rows in groups.values():
        for same in _runs(sorted(rows)):
            gpus = {gpu_of(offers[i]) for _, i in same}
            rates = [spec.dense_tflops for gpu in gpus if (spec := accelerator_table().get(gpu))]
            if len(rates) < LEAST_GPUS or max(rates) < APART_TFLOPS * min(rates):
                continue
            for each, i in same:
                message = f"{each:g} $/h per GPU for {', '.join(sorted(gpus))} alike: no price?"
                yield Finding(i, "one-price-for-gpus", FlagScope.ON_DEMAND, message)


def _runs(rows: Sequence[tuple[float, int]]) -> Iterator[list[tuple[float, int]]]:
    """Yield rows of one price each, from rows in order of price."""
    run: list[tuple[float, int]] = []
    for row in rows:
        if run and not math.isclose(row[0], run[0][0], rel_tol=SAME_PRICE):
            yield run
            run = []
        run.append(row)
    if run:
        yield run
