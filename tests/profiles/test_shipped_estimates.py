"""The shipped estimates are found: else planning would simulate for a minute where it need not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.models import load_model
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.profiles.cache import fingerprint
from melange_sky.profiles.shipped import shipped_table
from melange_sky.resources import profiling_dir
from melange_sky.slo import SLO
from melange_sky.steps import Misfit, ReplicaModel


def asked_of(table: dict[str, Any]) -> tuple[ReplicaModel, SLO]:
    shape = ReplicaShape(
        accelerator=table["accelerator"],
        tensor_parallel=table["tensor_parallel"],
        links=table.get("links"),
    )
    model = DEFAULT_ENGINE.held(load_model(table["model"]), table.get("engine_args", ()))
    replica = engine_replica(model, shape, table["engine"])
    assert not isinstance(replica, Misfit)
    return replica, SLO(**table["slo"])


def test_every_table_is_found_by_what_planning_asks_for_and_read_alone_is_what_the_file_holds() -> (
    None
):
    document = json.loads((profiling_dir() / "estimates.json").read_text(encoding="utf-8"))
    assert len(document["tables"]) >= 100
    for key, entry in document["tables"].items():
        replica, slo = asked_of(entry)
        assert fingerprint(replica, slo, with_limit=False) == key
        table = shipped_table(replica, slo)
        assert table is not None
        assert table.entry == entry
        assert table.input_tokens == document["input_tokens"]
        assert table.output_tokens == document["output_tokens"]
    assert shipped_table(replica, replace(slo, attainment=0.123)) is None


def test_what_changes_a_replica_changes_its_key_and_a_default_does_not() -> None:
    replica = engine_replica(
        load_model("meta-llama/Llama-3.1-8B-Instruct"),
        ReplicaShape(accelerator="L4", tensor_parallel=1),
    )
    assert not isinstance(replica, Misfit)
    slo = SLO(tpot_s=0.06)
    key = fingerprint(replica, slo)
    assert fingerprint(replace(replica, waiting_ratio=0.0), slo) == key
    assert fingerprint(replace(replica, request_s=0.01), slo) != key
    assert fingerprint(replica.with_max_num_seqs(3), slo) != key
    assert fingerprint(replica, SLO(tpot_s=0.07)) != key
