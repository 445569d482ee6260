"""Tables as they are shipped: what simulation finds of a replica, as a part of what the closed form says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from melange_sky.profiles.cache import fingerprint
from melange_sky.profiles.estimate import Unfit, group_key
from melange_sky.profiles.lookup import CapacityLookup, sizes_of
from melange_sky.steps import capacity_estimate

if TYPE_CHECKING:
    from melange_sky.capacities import CapacityCell
    from melange_sky.profiles.query import CapacityQuery, ReplicaShape


def tables_to_ship(
    query: CapacityQuery, shapes: Sequence[ReplicaShape]
) -> dict[str, dict[str, object]]:
    """Return, per replica that fits, simulated ÷ analytic rates on the query's grid, by fingerprint.

    null where a size does not fit into the cache, 0 where the SLO cannot be met.
    """
    exact = dataclasses.replace(query, exact=True)
    sizes, tables = sizes_of(query), {}
    lookup = CapacityLookup(exact, shapes)
    for shape in shapes:
        group_cells = lookup.of_group(group_key(shape))
        if isinstance(group_cells, Unfit):
            continue
        group = group_cells.group
        guess = capacity_estimate(group.replica, sizes, query.slo).rate_rps.tolist()
        fits = (sizes.input_tokens + sizes.output_tokens <= group.max_model_len).tolist()
        flat = [
            None if not fit else _ratio(cell, first)
            for cell, first, fit in zip(group_cells.cells, guess, fits, strict=True)
        ]
        columns = len(query.input_sizes[0])
        held = {"engine_args": list(query.engine_args)} if query.engine_args else {}
        tables[fingerprint(group.replica, query.slo, with_limit=False)] = {
            "model": query.model.name,
            **held,
            "accelerator": shape.accelerator,
            "tensor_parallel": shape.tensor_parallel,
            **({"links": shape.links} if shape.links else {}),
            "engine": query.generation,
            "slo": dataclasses.asdict(query.slo),
            "ratios": [flat[i : i + columns] for i in range(0, len(flat), columns)],
        }
    return tables


def _ratio(cell: CapacityCell, analytic_rps: float) -> float:
    if cell.max_rate_rps is None or analytic_rps <= 0:
        return 0.0
    return round(cell.max_rate_rps / analytic_rps, 3)
