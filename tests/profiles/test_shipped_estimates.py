"""The shipped estimates are found: else planning would simulate for a minute where it need not."""

from __future__ import annotations

import json
from dataclasses import replace

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.models import load_model
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.profiles.cache import fingerprint
from melange_sky.resources import profiling_dir
from melange_sky.slo import SLO
from melange_sky.steps import Misfit


def test_every_table_is_under_the_key_that_planning_looks_for() -> None:
    document = json.loads((profiling_dir() / "estimates.json").read_text(encoding="utf-8"))
    assert len(document["tables"]) >= 100
    for key, table in document["tables"].items():
        shape = ReplicaShape(
            accelerator=table["accelerator"],
            tensor_parallel=table["tensor_parallel"],
            links=table.get("links"),
        )
        model = DEFAULT_ENGINE.held(load_model(table["model"]), table.get("engine_args", ()))
        replica = engine_replica(model, shape, table["engine"])
        assert not isinstance(replica, Misfit)
        assert fingerprint(replica, SLO(**table["slo"]), with_limit=False) == key


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
