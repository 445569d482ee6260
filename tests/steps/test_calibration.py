"""The shipped constants against the measured sets that they were fitted on."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from melange_sky.profiles import engine_generation, engine_generations
from melange_sky.steps import Misfit, kv_pool
from tests.scripts import script

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the measured sets are not beside the project"
)


def errors(rows, generation):
    gaps = script("calibrate").ratios(rows, generation)
    assert np.isfinite(gaps).all()
    return np.abs(np.expm1(-gaps))


@needs_data
@pytest.mark.parametrize("accelerator", ["A100", "H100", "GH200"])
def test_vllm_0_5_meets_argonne(accelerator):
    sets = script("measured_sets")
    rows = sets.read_argonne(DATA / "measured_argonne_vllm_llama2_7b.csv")
    found = errors([r for r in rows if r.accelerator == accelerator], engine_generation("vllm-0.5"))
    assert (np.median(found, axis=0) <= 0.15).all()
    assert (np.percentile(found, 90, axis=0) <= 0.35).all()


@needs_data
def test_tgis_meets_llm_pilot_below_the_knee():
    sets = script("measured_sets")
    rows = sets.below_knee(sets.read_pilot(DATA / "measured_llmpilot_llama2_7b.csv"))
    found = errors(
        rows[::2], engine_generation("tgis")
    )  # every second row: quick, all accelerators
    assert (np.median(found, axis=0) <= 0.15).all()
    assert (np.percentile(found, 90, axis=0) <= 0.35).all()


def test_the_knee_of_one_a10_lies_between_32_and_64_users():
    sets = script("measured_sets")
    generation = engine_generation("tgis")
    users = (8, 16, 32, 64, 128)
    rates = []
    for count in users:
        row = sets.Row(
            generation="tgis",
            model="llama-7b",
            accelerator="A10",
            tensor_parallel=1,
            concurrency=count,
            sizes=(120.0, 85.0, 19.0, 12.5),
            rate_rps=1.0,
            token_s=1.0,
        )
        rate, _ = row.predict(generation)
        rates.append(rate)
    gains = [b / a for a, b in itertools.pairwise(rates)]
    assert gains[1] > 1.15  # 16 → 32 users still pays
    assert gains[2] < 1.1 and gains[3] < 1.05  # 32 → 64 and beyond does not
    pool = kv_pool(sets.model_named("llama-7b"), sets.find_accelerator("A10"), 1, generation)
    assert not isinstance(pool, Misfit)
    assert 32 < pool.tokens / generation.schedule.reserve_tokens < 64  # the cache is full there


@needs_data
def test_vllm_0_2_agrees_with_the_melange_table():
    calibrate = script("calibrate")
    table = calibrate.read_melange(DATA / "melange_best_accelerator.csv")
    margins = calibrate.melange_margins(table, engine_generation("vllm-0.2"))
    assert (margins > 0).sum() >= 50
    lost = [row for row, margin in zip(table, margins, strict=True) if margin <= 0]
    assert all(percent <= 15 for *_, percent in lost)
    assert (calibrate.melange_slo_margins(engine_generation("vllm-0.2")) > 0).all()


@pytest.mark.parametrize("name", engine_generations())
def test_constants_are_physical_and_say_their_error(name):
    generation = engine_generation(name)
    for figures in [*generation.efficiencies.values(), generation.default]:
        assert (
            0 < figures.bandwidth <= 1 and 0 < figures.compute <= 1 and 0 < figures.attention <= 1
        )
    assert generation.band.low < 1 < generation.band.high
    assert generation.band_default.low <= generation.band.low
    assert generation.band_default.high >= generation.band.high
    assert generation.note
