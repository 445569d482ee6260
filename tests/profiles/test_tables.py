"""Measured tables over estimates, shipped tables, and the cache."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from melange_sky.capacities import Origin
from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.models import find_model
from melange_sky.profiles import (
    CapacityQuery,
    ReplicaShape,
    engine_replica,
    replica_capacities,
    table_notes,
)
from melange_sky.profiles.shipped import read_document, shipped_table
from melange_sky.profiletable import (
    KeptProbe,
    ProfileTable,
    Provenance,
    write_table,
)
from melange_sky.resources import profiling_dir
from melange_sky.slo import SLO, RequestLog
from melange_sky.steps import RequestSizes
from tests.factories import make_measured
from tests.scripts import script

SLO_60 = SLO(tpot_s=0.06, ttft_s=2.0)
LLAMA = find_model("meta-llama/Llama-3.1-8B-Instruct")


def query(sizes, **over):
    figures = {
        "model": LLAMA,
        "slo": SLO_60,
        "input_sizes": tuple((float(i),) for i, _ in sizes),
        "output_sizes": tuple((float(o),) for _, o in sizes),
        "longest_request_tokens": 18000,
    }
    return CapacityQuery(**(figures | over))


def cells(accelerator, asked, tp=1):
    shape = ReplicaShape(accelerator=accelerator, tensor_parallel=tp)
    return [row[0] for row in replica_capacities(asked, [shape])[0].cells]


def notes(asked, accelerator="A100"):
    return table_notes(asked, [ReplicaShape(accelerator=accelerator, tensor_parallel=1)])


def measured(input_tokens, output_tokens, rate, reason="bounds within tolerance"):
    return make_measured(input_tokens, output_tokens, rate, reason=reason)


def put(home, rows, **over):
    made = {
        "model": LLAMA.name,
        "accelerator": "A100",
        "accelerator_count": 1,
        "tensor_parallel": 1,
    }
    table = ProfileTable(provenance=Provenance(**(made | over)), cells=tuple(rows))
    write_table(table, home / "profiles" / "t.profile.jsonl")


GRID = [
    measured(i, o, r)
    for i, o, r in ((100, 100, 40.0), (100, 400, 10.0), (400, 100, 20.0), (400, 400, 5.0))
]


def test_measured_over_interpolated_over_estimated(home):
    put(home, GRID)
    exact, between, outside = cells("A100", query([(100, 100), (200, 200), (2000, 100)]))
    assert (exact.origin, exact.max_rate_rps) == (Origin.MEASURED, 40.0)
    assert (exact.low_rps, exact.high_rps) == pytest.approx((39.2, 41.2))
    assert between.origin is Origin.INTERPOLATED
    assert 5.0 < between.low_rps < between.max_rate_rps < between.high_rps < 40.0
    assert outside.origin is Origin.ESTIMATED


def test_measurements_of_another_model_count_or_split_do_not_count(home):
    put(home, GRID)
    assert cells("A100", query([(100, 100)]), tp=2)[0].origin is Origin.ESTIMATED
    assert cells("A100-80GB", query([(100, 100)]))[0].origin is Origin.ESTIMATED
    other = query([(100, 100)], model=find_model("meta-llama/Llama-2-7b-hf"))
    assert cells("A100", other)[0].origin is Origin.ESTIMATED


def test_measurements_with_the_arrivals_of_a_trace_do_not_count(home):
    put(home, GRID, arrivals="bursts.csv sha256:0123456789ab")
    assert cells("A100", query([(100, 100)]))[0].origin is Origin.ESTIMATED
    (told,) = notes(query([(100, 100)]))
    assert told == (
        "profile tables of meta-llama/Llama-3.1-8B-Instruct on A100:1 measured with the arrivals of a "
        "trace (bursts.csv sha256:0123456789ab) are left out: planning assumes Poisson arrivals"
    )
    assert notes(query([(100, 100)]), "A100-80GB") == ()
    put(home, GRID)
    assert notes(query([(100, 100)])) == ()


FP8 = DEFAULT_ENGINE.held(LLAMA, ["--quantization", "fp8"])


@pytest.mark.parametrize(
    ("flags", "args", "counts"),
    [
        ((), (), True),
        (("--quantization", "fp8"), ("-q=fp8",), True),
        (("--max-num-seqs", "64", "--max-model-len", "9000"), (), True),
        (("--dtype", "bfloat16"), (), True),  # the checkpoint's own
        (("--quantization", "fp8"), (), False),
        ((), ("--quantization", "fp8"), False),
        (("--kv-cache-dtype=fp8",), (), False),
        (("--quantization", "no-such-form"), (), False),
    ],
)
def test_measurements_count_for_the_form_in_which_the_model_is_served(home, flags, args, counts):
    put(home, GRID, engine_flags=flags)
    asked = query([(100, 100)], model=DEFAULT_ENGINE.held(LLAMA, args), engine_args=args)
    origin = cells("A100", asked)[0].origin
    assert origin is (Origin.MEASURED if counts else Origin.ESTIMATED)
    why = (
        "the model is planned in another form (engine.args of the spec and --engine-flags of the "
        "profile differ)"
    )
    told = [text.split(" are left out: ")[1] for text in notes(asked)]
    assert told == ([] if counts else [why])


def test_a_left_out_form_is_named(home):
    put(home, GRID, engine_flags=("--port", "80", "-q", "fp8"))
    assert "on A100:1 measured with --quantization=fp8 are left out" in notes(query([(1, 1)]))[0]
    put(home, GRID)
    told = notes(query([(1, 1)], model=FP8, engine_args=("-q", "fp8")))[0]
    assert "on A100:1 measured with no flags that change the weights' form are left out" in told


def test_measurements_of_prompts_with_a_common_part_count_and_are_named(home):
    put(home, GRID, prefix_share=0.5)
    assert cells("A100", query([(100, 100)]))[0].origin is Origin.MEASURED
    (told,) = notes(query([(100, 100)]))
    assert told == (
        "measured capacities of meta-llama/Llama-3.1-8B-Instruct on A100:1 are of prompts that share 50% "
        "of their tokens: they hold only for traffic that does so too"
    )


def test_a_size_that_was_measured_to_miss_the_slo_is_absent(home):
    put(home, [measured(100, 100, None, "even 0.1 req/s fails")])
    cell = cells("A100", query([(100, 100)]))[0]
    assert cell.max_rate_rps is None and "measured: even 0.1" in cell.reason


def test_probes_too_short_for_another_slo_leave_its_estimate(home):
    """Searched for 20 ms per token, every probe ended early: of 60 ms that says nothing."""
    ones = np.ones(20, dtype=np.int64)
    arrival = np.arange(20) / 2.0
    log = RequestLog(
        arrival_s=arrival,
        first_token_s=arrival + 0.2,
        last_token_s=arrival + 4.2,
        input_tokens=100 * ones,
        output_tokens=101 * ones,
        ok=ones.astype(bool),
        option=-ones,
    )
    probe = KeptProbe(rate_rps=2.0, seed=0, verdict="fail", reason="attainment 0", log=log)
    tight = replace(SLO_60, tpot_s=0.02)
    rows = [
        replace(c, slo=tight, max_rate_rps=None, probes=(probe,))
        for c in (measured(100, 100, None, "even 2 req/s fails"), measured(100, 400, None))
    ]
    put(home, rows)
    plain = cells("A100", query([(100, 100), (100, 200)], measured=False))
    assert plain[0].max_rate_rps > 2
    assert cells("A100", query([(100, 100), (100, 200)])) == plain
    assert "measured" in cells("A100", query([(100, 100)], slo=tight))[0].reason
    # a rate between bounds far apart is no measured one either, nor a point of the surface
    passing = replace(probe, log=long_log(0.03))
    failing = replace(probe, rate_rps=90.0, log=long_log(0.2))
    put(home, [replace(c, probes=(passing, failing)) for c in rows])
    assert cells("A100", query([(100, 100), (100, 200)])) == plain


def long_log(tpot_s):
    """Return 2000 requests of such a pace."""
    ones = np.ones(2000, dtype=np.int64)
    arrival = np.arange(2000) / 2.0
    return RequestLog(
        arrival_s=arrival,
        first_token_s=arrival + 0.2,
        last_token_s=arrival + 0.2 + 100 * tpot_s,
        input_tokens=100 * ones,
        output_tokens=101 * ones,
        ok=ones.astype(bool),
        option=-ones,
    )


def test_nothing_is_inferred_beyond_an_unservable_size_or_over_an_estimate_of_none(home):
    put(home, [*GRID, measured(250, 250, None, "even 0.1 req/s fails")])
    beyond, exact, below = cells("A100", query([(300, 300), (250, 250), (200, 200)]))
    assert beyond.origin is Origin.ESTIMATED
    assert (exact.origin, exact.max_rate_rps) == (Origin.MEASURED, None)
    assert below.origin is Origin.INTERPOLATED
    # where a simulation found that nothing is served, a ratio of other sizes cannot change that
    other = replace(SLO_60, tpot_s=0.045)
    put(home, [replace(row, slo=other) for row in GRID])
    asked = query([(200, 200), (100, 100)], slo=other)
    assert [c.origin for c in cells("A100", asked)] == [Origin.INTERPOLATED, Origin.MEASURED]
    simulated = json.dumps([[200, 200, None, "not met"], [100, 100, None, "not met"]])
    next((home / "estimates").iterdir()).write_text(simulated, encoding="utf-8")
    between, exact = cells("A100", asked)
    assert (between.max_rate_rps, between.reason) == (None, "not met")
    assert (exact.origin, exact.max_rate_rps) == (Origin.MEASURED, 40.0)


def test_a_shipped_table_answers_without_a_simulation_and_near_it():
    sizes = [(60, 40), (700, 150), (1500, 300)]
    shipped = cells("A100-80GB", query(sizes))
    exact = cells("A100-80GB", query(sizes, exact=True))
    for quick, slow in zip(shipped, exact, strict=True):
        assert quick.origin is slow.origin is Origin.ESTIMATED
        assert quick.max_rate_rps == pytest.approx(slow.max_rate_rps, rel=0.2)


def test_a_plan_on_the_shipped_slo_writes_no_cache(home):
    cells("A100-80GB", query([(700, 150)]))
    assert not (home / "estimates").exists()


def test_plans_of_shipped_distributions_and_tables_need_no_simulation():
    """What the tables cannot tell of them was simulated beforehand: run profiling/ship_estimates.py."""
    sizes = script("ship_estimates").sizes_of_distributions()
    inputs, outputs = np.array(sizes, dtype=float).T
    load = RequestSizes(input_tokens=inputs, output_tokens=outputs)
    open_sizes = 0
    document = read_document(profiling_dir() / "estimates.json")
    for table in document["tables"].values():
        shape = ReplicaShape(
            accelerator=table["accelerator"],
            tensor_parallel=table["tensor_parallel"],
            links=table.get("links"),
        )
        model = DEFAULT_ENGINE.held(find_model(table["model"]), table.get("engine_args", ()))
        replica = engine_replica(model, shape)
        slo = SLO(**table["slo"])
        shipped = shipped_table(replica, slo)
        untold = np.flatnonzero(np.isnan(shipped.ratio(load)))
        assert all(shipped.point(sizes[at]) is not None for at in untold)
        open_sizes += len(untold)
    assert open_sizes > 100


@pytest.mark.parametrize(("accelerator", "tp"), [("L40S", 1), ("L4", 1), ("L4", 8), ("T4", 2)])
def test_table_and_simulation_agree_on_what_is_served(accelerator, tp):
    """Also near the sizes at which the SLO begins to be missed, where a ratio tells nothing."""
    sizes = [
        size for size in script("ship_estimates").sizes_of_distributions() if sum(size) <= 17000
    ]
    tabled = cells(accelerator, query(sizes), tp)
    exact = cells(accelerator, query(sizes, exact=True), tp)
    for size, told, true in zip(sizes, tabled, exact, strict=True):
        assert (told.max_rate_rps is None) == (true.max_rate_rps is None), (size, told, true)
        if told.max_rate_rps is not None:
            # Within the error band that every estimate is told with.
            assert told.low_rps <= true.max_rate_rps <= told.high_rps, size


def test_a_size_between_one_that_is_served_and_one_that_is_not_is_simulated(home):
    """8000 tokens in are served by one L40S within 2 s, 16000 are not: no table tells of 10000."""
    found = cells("L40S", query([(10000, 40)]))[0]
    assert found.max_rate_rps > 0 and found.origin is Origin.ESTIMATED
    assert len(list((home / "estimates").iterdir())) == 1
    assert "TTFT" in cells("L40S", query([(15900, 40)]))[0].reason


def test_another_slo_is_simulated_once_and_then_read(home):
    asked = query([(500, 50)], slo=replace(SLO_60, tpot_s=0.045))
    first = cells("A100-80GB", asked)
    file = next((home / "estimates").iterdir())
    rows = json.loads(file.read_text(encoding="utf-8"))
    assert rows == [[500, 50, first[0].max_rate_rps, None]]
    file.write_text(json.dumps([[500, 50, 1.25, None]]), encoding="utf-8")
    assert cells("A100-80GB", asked)[0].max_rate_rps == 1.25  # read, not run again


@pytest.mark.parametrize("junk", ["", "{", "[[1]]", '[[1, 2, "x", null]]', "null"])
def test_a_damaged_cache_costs_time_never_an_answer(home, junk):
    asked = query([(500, 50)], slo=replace(SLO_60, tpot_s=0.045))
    first = cells("A100-80GB", asked)
    next((home / "estimates").iterdir()).write_text(junk, encoding="utf-8")
    assert cells("A100-80GB", asked) == first
