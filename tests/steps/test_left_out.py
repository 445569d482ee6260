"""Refits that have not seen what they are judged by, and bands of families that weigh alike."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from melange_sky.resources import profiling_dir
from tests.scripts import script

served = script("served")
bands = script("bands")
left_out = script("left_out")


def base():
    document = json.loads((profiling_dir() / "engine_constants.json").read_text(encoding="utf-8"))
    return {**document["generations"]["vllm"], **script("calibrate").NOTES}


def test_what_is_left_out_leaves_no_trace_in_its_refit() -> None:
    dense = ("Qwen/Qwen3-8B", "Qwen/Qwen3-14B")
    runs = [run for run in left_out.runs_of_today() if run.model in dense]
    kept = np.array([run.model != dense[0] for run in runs])
    assert 0 < kept.sum() < len(runs)
    wrong = [
        run if keep else dataclasses.replace(run, rate_rps=run.rate_rps / 4)
        for run, keep in zip(runs, kept, strict=True)
    ]
    constants = base()
    true_fit, wrong_fit = (served.fit(some, constants, passes=2) for some in (runs, wrong))
    assert np.abs(true_fit.at - wrong_fit.at).max() > 0.05
    refits = [served.refit(fit, kept, runs, constants) for fit in (true_fit, wrong_fit)]
    assert refits[0] == pytest.approx(refits[1], abs=0.02)


def test_many_runs_of_one_family_narrow_no_band_of_their_class() -> None:
    """Nine runs of one family that agree, and one of another that does not: both count alike."""
    values = np.array([[0.0] * 9 + [0.5]])
    weight = bands._alike(["a"] * 9 + ["b"])
    assert weight[:9].sum() == pytest.approx(weight[9])
    low, high = bands._percentiles(values, weight, (6, 94))
    assert low == 0.0
    assert high == 0.5
    assert bands._percentiles(values, np.ones(10), (6, 50))[1] == 0.0


def test_a_run_that_is_unknown_is_left_out_of_percentiles() -> None:
    values = np.array([[1.0, np.nan, 3.0]])
    assert bands._percentiles(values, np.ones(3), (50,)) == pytest.approx([2.0])
