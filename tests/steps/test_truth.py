"""What the estimates say beside published runs and measured operations, and that they never bend."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from melange_sky.accelerators import accelerator_table
from melange_sky.models import find_model
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles import engine_generation
from melange_sky.resources import profiling_dir
from melange_sky.slo import SLO
from melange_sky.steps import (
    ReplicaModel,
    RequestSizes,
    capacity_estimate,
    knee_batch,
    products_table,
    regime_of,
    replica_model,
)
from melange_sky.topology import linked
from tests.scripts import script

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
STEPS = DATA / "vllm_step_times_from_measured_ops.csv"
LLAMA, BIG = find_model("meta-llama/Llama-3.1-8B"), find_model("meta-llama/Llama-3.1-70B")
MIXED, GPT = find_model("Qwen/Qwen3-30B-A3B"), find_model("openai/gpt-oss-20b")


def judged():
    report = script("ledger_report")
    ledger = script("ledger")
    return report.judge(ledger.counted(ledger.read_ledger()))


def beyond_chance(inside: int, runs: int, stated: float = 0.85, level: float = 0.05) -> bool:
    """Whether so few inside are less likely than `level` where each is with probability `stated`."""
    tail = sum(
        math.comb(runs, k) * stated**k * (1 - stated) ** (runs - k) for k in range(inside + 1)
    )
    return tail < level


def test_bands_hold_what_published_runs_measured() -> None:
    report = script("ledger_report")
    runs = judged()
    pooled = sum(one.inside for one in runs) / len(runs)
    assert 0.85 <= pooled <= 0.95
    classes: dict[str, list] = {}
    for one in runs:
        classes.setdefault(report.class_of(one.run), []).append(one)
    low = {
        name: f"{sum(o.inside for o in group)} of {len(group)}"
        for name, group in classes.items()
        if len(group) >= 8 and beyond_chance(sum(o.inside for o in group), len(group))
    }
    assert not low, low
    widths = [one.band.high / one.band.low for one in runs]
    assert np.median(widths) <= 2.2


def test_the_median_error_over_published_runs_is_at_most_15_percent() -> None:
    runs = judged()
    for engine in ("vllm", "tgis"):
        gaps = np.array([one.rate_gap for one in runs if one.run.engine == engine])
        assert np.median(np.abs(np.expm1(-gaps))) <= 0.15


def test_left_out_runs_are_foretold_as_the_constants_say() -> None:
    document = json.loads((profiling_dir() / "engine_constants.json").read_text(encoding="utf-8"))
    for name, figures in document["generations"]["vllm"]["residuals"]["left_out"].items():
        assert figures["rate_median"] <= 0.10, name
        assert figures["rate_p90"] <= 0.30, name
        assert figures["tpot_median"] <= 0.12, name
        assert figures["tpot_p90"] <= 0.35, name


@pytest.mark.skipif(not STEPS.is_file(), reason="the step times are not beside the project")
def test_kernels_meet_the_measured_operations() -> None:
    check = script("step_check")
    document = json.loads((profiling_dir() / "engine_constants.json").read_text(encoding="utf-8"))
    base = {**document["generations"]["vllm"], **script("calibrate").NOTES}
    for (card, dtype, kind), ratios in check.step_errors(STEPS, base).items():
        if dtype == "bf16":
            most = 0.041 if kind == "decode" else 0.07
            assert np.median(np.abs(ratios - 1)) <= most, (card, kind)


def test_all_reduces_meet_the_measured_ones() -> None:
    links = json.loads((profiling_dir() / "kernels.json").read_text(encoding="utf-8"))["links"]
    errors = [
        e for rows in links.values() for row in rows.values() for e in row["median_error"].values()
    ]
    assert max(errors) <= 0.15


def test_over_pcie_a_group_of_four_pays_for_its_all_reduces() -> None:
    generation = engine_generation("vllm")
    load = RequestSizes(
        input_tokens=np.array([250.0, 1000.0, 2000.0]),
        output_tokens=np.array([250.0, 250.0, 100.0]),
    )
    slo = SLO(tpot_s=0.08, ttft_s=4.0, attainment=0.95)

    def rates(links):
        card = linked(find_accelerator("L40S"), links)
        replica = replica_model(BIG, card, 4, generation)
        assert isinstance(replica, ReplicaModel)
        return capacity_estimate(replica, load, slo).rate_rps

    assert (rates("pcie") <= [0.6, 0.25, 0.2]).all()  # once promised: 1.52, 0.53 and 0.30
    assert (rates("pcie") <= rates("pcie-peer")).all()


@pytest.mark.parametrize("model", [LLAMA, MIXED, GPT], ids=["dense", "moe", "4-bit"])
@pytest.mark.parametrize("card", ["A100-80GB", "H100", "L40S", "L4", "B200"])
def test_more_tokens_never_take_less_and_a_faster_chip_never_more(model, card) -> None:
    generation = engine_generation("vllm")
    spec = accelerator_table()[card]
    for split in (1, 2, 4):
        replica = replica_model(model, spec, split, generation)
        if not isinstance(replica, ReplicaModel):
            continue
        table = products_table(replica.costs, 9000)
        assert (np.diff(table[1:]) >= 0).all()
        for better in (
            {"bandwidth_gbps": spec.bandwidth_gbps * 1.3},
            {
                "dense_tflops": spec.dense_tflops * 1.3,
                "fp8_tflops": (spec.fp8_tflops or 0) * 1.3 or None,
            },
            {"interconnect_gbps": spec.interconnect_gbps * 1.3},
        ):
            faster = replica_model(model, dataclasses.replace(spec, **better), split, generation)
            assert isinstance(faster, ReplicaModel)
            assert (products_table(faster.costs, 9000) <= table + 1e-12).all(), better
            assert faster.costs.kv_token_s <= replica.costs.kv_token_s
            assert faster.costs.pair_s <= replica.costs.pair_s


@pytest.mark.parametrize("card", ["A10G", "L40S", "H100"])
def test_a_looser_limit_or_a_shorter_prompt_never_gives_less(card) -> None:
    replica = replica_model(LLAMA, find_accelerator(card), 1, engine_generation("vllm"))
    assert isinstance(replica, ReplicaModel)
    inputs = np.array([25.0, 250.0, 1000.0, 4000.0, 12000.0])
    load = RequestSizes(input_tokens=inputs, output_tokens=np.full(5, 250.0))
    tighter = np.zeros(5)
    limits = (0.03, 0.06, 0.12, 0.25, None)
    for tpot_s in limits:
        slo = SLO(tpot_s=tpot_s, ttft_s=5.0, attainment=0.95)
        limited = replica.with_max_num_seqs(knee_batch(replica, load, slo))
        rates = capacity_estimate(limited, load, slo).rate_rps
        assert (rates >= tighter - 1e-9).all()
        assert (np.diff(rates) <= 1e-9).all()
        tighter = rates
    for ttft_s in (0.5, 1.0, 4.0, None):
        slo = SLO(tpot_s=0.1, ttft_s=ttft_s, attainment=0.95)
        rates = capacity_estimate(replica, load, slo).rate_rps
        assert ttft_s == 0.5 or (rates >= tighter - 1e-9).all()
        tighter = rates


def test_bands_are_of_card_kind_and_regime_and_wide_where_nothing_is_known() -> None:
    generation = engine_generation("vllm")

    def band(card, model, tp=1, tokens=500.0, batch=100.0):
        return generation.error_band(card, model, tp, regime_of(tokens, batch))

    known, unknown = band("H100", LLAMA), band("L4", LLAMA)
    assert known.low > unknown.low and known.high < unknown.high
    assert "no published run" in unknown.basis and "published runs" in known.basis
    assert band("H100", MIXED) != band("H100", LLAMA)
    assert band("H100", GPT, tokens=32000.0) != band("H100", GPT)
