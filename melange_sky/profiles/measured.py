"""What the user measured: it overrides estimates cell by cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.capacity import CapacityCell, Origin
from melange_sky.profiles.home import home_dir

if TYPE_CHECKING:
    from melange_sky.capacity_search import SearchResult
    from melange_sky.profiles.query import CapacityQuery, ReplicaShape
    from melange_sky.profiletable import MeasuredCell, ProfileTable

SUFFIX = ".profile.jsonl"


def measured_tables(folder: Path | None = None) -> tuple[ProfileTable, ...]:
    """Return the tables of `<home>/profiles`, none (and nothing imported) where there are none."""
    folder = home_dir() / "profiles" if folder is None else folder
    if not folder.is_dir() or not any(folder.glob("*" + SUFFIX)):
        return ()
    stamps = tuple(sorted((p, p.stat().st_mtime_ns) for p in folder.glob("*" + SUFFIX)))
    return _load(folder, stamps)


@lru_cache(maxsize=4)
def _load(folder: Path, stamps: tuple[tuple[Path, int], ...]) -> tuple[ProfileTable, ...]:
    from melange_sky.profiletable import load_tables

    return load_tables(folder)


def matching(
    tables: Sequence[ProfileTable], query: CapacityQuery, shape: ReplicaShape
) -> list[MeasuredCell]:
    """Return the measured cells of this model on this replica; where two tables agree, the later."""
    found: dict[tuple[int, int], MeasuredCell] = {}
    for table in tables:
        made = table.provenance
        splits = (
            (made.tensor_parallel, shape.tensor_parallel), (made.data_parallel, shape.data_parallel)
        )  # fmt: skip
        if (
            _same_model(made.model, query.model.name)
            and made.accelerator.casefold() == shape.accelerator.casefold()
            and made.accelerator_count == shape.gpus
            and all(given in (None, wanted) for given, wanted in splits)
        ):
            for cell in table.cells:
                key = (cell.input_tokens, cell.output_tokens)
                if key not in found or cell.measured_at >= found[key].measured_at:
                    found[key] = cell
    return list(found.values())


def _same_model(measured: str, asked: str) -> bool:
    return measured.casefold().rpartition("/")[2] == asked.casefold().rpartition("/")[2]


def measured_cell(
    cells: Sequence[MeasuredCell], query: CapacityQuery, sizes: tuple[float, float]
) -> CapacityCell | None:
    """Return the cell of exactly these sizes, or one interpolated between four, None for neither."""
    by_size = {(c.input_tokens, c.output_tokens): c for c in cells}
    exact = by_size.get((round(sizes[0]), round(sizes[1])))
    if exact is not None:
        return _as_cell(exact.answer(query.slo), Origin.MEASURED)
    return _between(by_size, query, sizes)


def _as_cell(found: SearchResult, origin: Origin) -> CapacityCell:
    if found.max_rate_rps is None:
        return CapacityCell(max_rate_rps=None, origin=origin, reason=f"measured: {found.reason}")
    return CapacityCell(
        max_rate_rps=found.max_rate_rps, origin=origin,
        low_rps=found.low_rps or found.max_rate_rps, high_rps=found.high_rps or found.max_rate_rps,
    )  # fmt: skip


def _between(
    by_size: dict[tuple[int, int], MeasuredCell], query: CapacityQuery, sizes: tuple[float, float]
) -> CapacityCell | None:
    """Interpolate the logarithm of the rate, bilinear in log sizes, between measured corners."""
    lines = [_bracket({key[axis] for key in by_size}, sizes[axis]) for axis in (0, 1)]
    if lines[0] is None or lines[1] is None:
        return None
    log_rates = [0.0, 0.0, 0.0]
    for input_tokens, weight in lines[0]:
        for output_tokens, other in lines[1]:
            corner = by_size.get((input_tokens, output_tokens))
            found = corner.answer(query.slo) if corner is not None else None
            if found is None or found.max_rate_rps is None:
                return None
            rates = (found.max_rate_rps, found.low_rps, found.high_rps)
            for k, rate in enumerate(rates):
                log_rates[k] += weight * other * math.log(rate or found.max_rate_rps)
    rate, low, high = map(math.exp, log_rates)
    return CapacityCell(max_rate_rps=rate, origin=Origin.INTERPOLATED, low_rps=low, high_rps=high)


def _bracket(known: set[int], size: float) -> list[tuple[int, float]] | None:
    """Return the measured sizes around `size` with their weights, None outside of them."""
    below = max((k for k in known if k <= size), default=None)
    above = min((k for k in known if k >= size), default=None)
    if below is None or above is None:
        return None
    if below == above:
        return [(below, 1.0)]
    place = math.log(max(size, 1.0) / below) / math.log(above / below)
    return [(below, 1.0 - place), (above, place)]
