"""What simulation could find at most, held against all that was simulated for the shipped tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from melange_sky.capacities import Origin
from melange_sky.models import find_model
from melange_sky.profiles import CapacityQuery, ReplicaShape, engine_replica
from melange_sky.profiles.bounds import slos_of_bounds, upper_bounds
from melange_sky.profiles.cache import fingerprint
from melange_sky.profiles.lookup import CapacityLookup
from melange_sky.resources import profiling_dir
from melange_sky.slo import SLO
from melange_sky.steps import ReplicaModel, RequestSizes, capacity_estimates_within, knee_batch


def shipped() -> tuple[RequestSizes, list[dict[str, Any]]]:
    document = json.loads((profiling_dir() / "estimates.json").read_text(encoding="utf-8"))
    inputs, outputs = np.meshgrid(
        document["input_tokens"], document["output_tokens"], indexing="ij"
    )
    sizes = RequestSizes(
        input_tokens=inputs.ravel().astype(float), output_tokens=outputs.ravel().astype(float)
    )
    entries = [{**entry, "key": key} for key, entry in document["tables"].items()]
    return sizes, [entry for entry in entries if not entry.get("engine_args")]


def replicas(sizes: RequestSizes, entries: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """Yield each table with its replica, as far as its content is still today's."""
    for entry in entries:
        slo = SLO(**entry["slo"])
        shape = ReplicaShape(
            accelerator=entry["accelerator"],
            tensor_parallel=entry["tensor_parallel"],
            links=entry.get("links"),
        )
        replica = engine_replica(find_model(entry["model"]), shape, entry["engine"])
        if isinstance(replica, ReplicaModel) and fingerprint(replica, slo, False) == entry["key"]:
            yield entry, slo, replica.with_max_num_seqs(knee_batch(replica, sizes, slo))


def test_no_simulated_rate_of_the_shipped_tables_exceeds_its_bound() -> None:
    sizes, entries = shipped()
    tables = cells = 0
    for entry, slo, replica in replicas(sizes, entries):
        rows = capacity_estimates_within((replica,), sizes, (slo, *slos_of_bounds(slo)))
        target, looser, free = (row[0] for row in rows)
        bounds = upper_bounds(target, looser, free)
        ratios = np.array(entry["ratios"], dtype=float).ravel()
        served = np.nan_to_num(ratios) > 0
        simulated = ratios[served] * target.rate_rps[served]
        # ratios are told to three digits
        assert (simulated <= bounds[served] * 1.001).all(), entry["model"]
        tables, cells = tables + 1, cells + int(served.sum())
    assert tables > 50
    assert cells > 2500


def query(**over: Any) -> CapacityQuery:
    figures: dict[str, Any] = {
        "model": find_model("meta-llama/Llama-3.1-8B-Instruct"),
        "slo": SLO(tpot_s=0.047, ttft_s=2.0, attainment=0.95),
        "input_sizes": ((100.0, 100.0), (1000.0, 1000.0)),
        "output_sizes": ((50.0, 400.0), (50.0, 400.0)),
        "longest_request_tokens": 2000,
        "levels": True,
    }
    return CapacityQuery(**(figures | over))


def test_a_bounded_lookup_simulates_what_it_is_asked_for() -> None:
    shape = ReplicaShape(accelerator="H100", tensor_parallel=1)
    pair = ReplicaShape(accelerator="H100", tensor_parallel=1, data_parallel=2)
    (exact,) = CapacityLookup(query(), [shape]).capacities([shape])
    lookup = CapacityLookup(query(bounded=True, slo=SLO(tpot_s=0.048, ttft_s=2.0)), [shape, pair])
    before, _ = lookup.capacities([shape, pair])
    assert {cell.origin for row in before.cells for cell in row} == {Origin.BOUND}
    lookup.simulate([(pair, (1, 0))])
    after, copies = lookup.capacities([shape, pair])
    assert after.cells[1][0].origin is Origin.ESTIMATED
    assert (copies.cells[1][0].max_rate_rps or 0) == 2 * (after.cells[1][0].max_rate_rps or 0)
    assert after.cells[0] == before.cells[0]
    for found, bound in zip((c for row in exact.cells for c in row), range(4), strict=True):
        assert (found.max_rate_rps or 0) < (before.cells[bound // 2][bound % 2].max_rate_rps or 0)


def test_what_another_lookup_simulated_takes_the_place_of_bounds() -> None:
    shape = ReplicaShape(accelerator="H100", tensor_parallel=1)
    lookup = CapacityLookup(query(bounded=True), [shape])
    assert not lookup.take_kept()
    (exact,) = CapacityLookup(query(), [shape]).capacities([shape])
    assert lookup.take_kept()
    assert lookup.capacities([shape]) == (exact,)


@pytest.mark.parametrize("tpot_s", [0.02, 0.012])
def test_a_size_that_a_lone_request_misses_needs_no_bound(tpot_s: float) -> None:
    shape = ReplicaShape(accelerator="L4", tensor_parallel=1)
    slo = SLO(tpot_s=tpot_s, ttft_s=2.0, attainment=0.95)
    (bounded,) = CapacityLookup(query(slo=slo, bounded=True), [shape]).capacities([shape])
    (exact,) = CapacityLookup(query(slo=slo), [shape]).capacities([shape])
    assert bounded == exact
    assert "even alone" in (exact.cells[0][0].reason or "")
