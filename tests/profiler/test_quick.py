"""A few probes correct the estimates of a model on a GPU, and plans say so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from melange_sky.capacities import Origin
from melange_sky.errors import InputError
from melange_sky.models import load_model
from melange_sky.planner.measuring import MeasureOptions
from melange_sky.planner.quick import measure_quick
from melange_sky.profiles import CapacityQuery, ReplicaShape, engine_replica, replica_capacities
from melange_sky.simulator import RequestStream, fit_scales, simulate_replica
from melange_sky.slo import SLO
from melange_sky.steps import ReplicaModel, Scales

MODEL = "Qwen/Qwen3-8B"


def estimated() -> ReplicaModel:
    replica = engine_replica(load_model(MODEL), ReplicaShape(accelerator="H100", tensor_parallel=1))
    assert isinstance(replica, ReplicaModel)
    return replica


def test_scales_are_found_again_from_six_probes() -> None:
    start, truth = estimated(), Scales(host=1.6, products=0.8, cache=1.3, request=2.0)
    real = truth.applied(start)
    rng = np.random.default_rng(3)
    probes = [
        simulate_replica(
            real,
            RequestStream.of(np.cumsum(rng.exponential(1 / rate, count)), inputs, outputs),
        )
        for inputs, outputs, rate, count in (
            (64, 64, 0.2, 12),
            (2048, 16, 0.1, 12),
            (64, 256, 2.0, 120),
            (512, 128, 1.0, 100),
            (512, 128, 2.0, 160),
            (2048, 64, 0.6, 80),
        )
    ]
    fit = fit_scales(start, probes)
    assert fit.scales.products == pytest.approx(0.8, rel=0.1)
    assert fit.scales.host == pytest.approx(1.6, rel=0.35)
    assert fit.rms < 0.1


def test_a_quick_run_is_kept_and_used(start_server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path))
    url = start_server(ttft=0.04, itl=0.02, slots=64, model=MODEL)
    options = MeasureOptions(
        url=url,
        model=MODEL,
        accelerator="L4:1",
        inputs="",
        outputs="",
        max_minutes=0.2,
        max_lateness_ms=500.0,
    )
    found = measure_quick(options)
    kept = json.loads(found.path.read_text(encoding="utf-8"))
    assert kept["schema"] == "melange-sky-calibration/1"
    assert kept["seconds"] < 40 and kept["probes"] >= 3
    assert 0.6 <= kept["low"] < 1 < kept["high"] <= 1.7

    def cell(model: str):
        shape = load_model(model)
        query = CapacityQuery(
            model=shape,
            slo=SLO(tpot_s=0.2, attainment=0.95),
            input_sizes=((500.0,),),
            output_sizes=((100.0,),),
            longest_request_tokens=600,
        )
        (capacity,) = replica_capacities(query, [ReplicaShape(accelerator="L4", tensor_parallel=1)])
        return capacity.cells[0][0]

    calibrated = cell(MODEL)
    assert calibrated.origin is Origin.CALIBRATED
    assert calibrated.low_rps == pytest.approx(calibrated.max_rate_rps * kept["low"])
    assert cell("Qwen/Qwen3-1.7B").origin is Origin.ESTIMATED


def test_too_little_time_is_told_in_one_line(start_server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path))
    url = start_server(ttft=0.01, itl=0.01, slots=8, model=MODEL)
    options = MeasureOptions(
        url=url, model=MODEL, accelerator="L4:1", inputs="", outputs="", max_minutes=1e-4
    )
    with pytest.raises(InputError, match="probes could be used"):
        measure_quick(options)
