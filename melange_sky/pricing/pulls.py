"""What earlier pulls knew of a cloud's prices."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from melange_sky.pricing.anchor import Known, known_prices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.pricing.store import Store

LOOKED_BACK = 40
"""At most so many earlier tables of a cloud are read for what an instance cost."""


def earlier_pulls(store: Store, cloud: str) -> Iterator[Known]:
    """Yield what earlier pulls knew of a cloud's prices, newest first; read only as far as asked.

    All of them, not the last alone: a fault that lasts must meet the time before it.
    """
    newest = store.newest()
    if newest is None:
        return
    told: set[str] = set()
    for manifest in itertools.chain([newest], store.before(newest)):
        entry = manifest.clouds.get(cloud)
        table = None if entry is None or entry.table in told else store.table(entry)
        if entry is None or table is None:
            continue
        told.add(entry.table)
        offers = table.offers(entry.label, entry.as_of)
        yield known_prices(offers, f"the pull of {entry.fetched_at[:10]}")
        if len(told) >= LOOKED_BACK:
            return
