"""What a replica carries: fits, reasons, settings, and order between options."""

from __future__ import annotations

import pytest

from melange_sky.capacities import Origin
from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.errors import InputError
from melange_sky.models import find_model
from melange_sky.names.accelerators import find_accelerator
from melange_sky.profiles import (
    CapacityQuery,
    ReplicaShape,
    lookup,
    replica_capacities,
    sensible_splits,
)
from melange_sky.slo import SLO

LLAMA = find_model("meta-llama/Llama-3.1-8B-Instruct")


def query(model=LLAMA, sizes=((100, 100), (1000, 200)), slo=None, **over):
    figures = {
        "model": model,
        "slo": slo or SLO(tpot_s=0.06, ttft_s=2.0),
        "input_sizes": tuple((float(i),) for i, _ in sizes),
        "output_sizes": tuple((float(o),) for _, o in sizes),
        "longest_request_tokens": 18000,
    }
    return CapacityQuery(**(figures | over))


def one(accelerator, asked, tp=1, dp=1):
    shape = ReplicaShape(accelerator=accelerator, tensor_parallel=tp, data_parallel=dp)
    return replica_capacities(asked, [shape])[0]


def test_every_estimate_says_so_and_carries_a_band():
    for row in one("A100-80GB", query()).cells:
        assert row[0].origin is Origin.ESTIMATED
        assert row[0].low_rps < row[0].max_rate_rps < row[0].high_rps


def test_a_model_that_does_not_fit_says_what_is_missing_and_what_would_fit():
    found = one("L4", query(find_model("meta-llama/Llama-3.1-70B-Instruct")))
    assert found.settings is None
    assert "GiB missing" in found.reason and "8 × L4 would fit" in found.reason
    assert all(cell.max_rate_rps is None and cell.reason for row in found.cells for cell in row)


def test_a_dtype_that_would_fit_is_named():
    assert "weights would fit" in one("T4", query()).reason


def test_settings_do_not_depend_on_which_buckets_have_traffic():
    all_cells = one("A10G", query())
    some = one("A10G", query(needed=((True,), (False,))))
    assert some.settings == all_cells.settings
    assert some.cells[1][0].reason == "no traffic"
    assert some.cells[0] == all_cells.cells[0]


def test_longest_request_is_held_to_the_cache_and_the_context():
    found = one(
        "A10G", query(find_model("meta-llama/Llama-2-7b-hf"), sizes=((3000, 900), (4000, 200)))
    )
    assert found.settings.max_model_len == 4096
    assert "exceed the model's context of 4096" in found.cells[1][0].reason
    tight = one("A10G", query(sizes=((30000, 2000), (60000, 2000)), longest_request_tokens=62000))
    assert tight.settings.max_model_len == tight.settings.kv_cache_tokens < 62000
    assert "fit into the KV cache" in tight.cells[1][0].reason


def test_a_slo_that_cannot_be_met_is_absent_with_the_limit():
    found = one("L4", query(slo=SLO(tpot_s=0.02)))
    assert found.cells[0][0].max_rate_rps is None
    assert "TPOT is" in found.cells[0][0].reason and "20 ms" in found.cells[0][0].reason


def test_data_parallel_copies_carry_as_many_times_more():
    single, double = one("A100", query()), one("A100", query(), dp=2)
    assert double.cells[0][0].max_rate_rps == pytest.approx(2 * single.cells[0][0].max_rate_rps)


def plain(model, accelerator, count):
    """Return (tensor, data) of the splits without stages and spread experts."""
    splits = sensible_splits(model, find_accelerator(accelerator), count)
    return tuple((s.tensor, s.data) for s in splits if s.pipeline == 1 and not s.experts_spread)


def test_splits_fit_and_divide_the_heads_smallest_first():
    big = find_model("meta-llama/Llama-3.1-70B-Instruct")
    assert plain(big, "A100-80GB", 8) == ((2, 4), (4, 2), (8, 1))
    assert sensible_splits(LLAMA, find_accelerator("T4"), 1) == ()
    qwen = find_model("Qwen/Qwen2.5-7B")  # 28 heads: 8 does not divide them
    assert plain(qwen, "A100", 8) == ((1, 8), (2, 4), (4, 2))


def test_a_split_gives_each_gpu_whole_heads_for_keys_and_values():
    """40 heads divide by 5, their 8 heads for keys and values do not: vLLM refuses it."""
    qwen = find_model("Qwen/Qwen2.5-32B-Instruct")
    assert (qwen.heads, qwen.kv_heads) == (40, 8)
    assert plain(qwen, "A100-80GB", 5) == ((1, 5),)
    assert plain(qwen, "A40", 5) == ()
    (refused,) = replica_capacities(
        query(qwen), [ReplicaShape(accelerator="A40", tensor_parallel=5)]
    )
    assert refused.settings is None
    assert refused.reason == (
        "Qwen/Qwen2.5-32B-Instruct cannot be split over 5 × A40: "
        "8 key-value heads can neither be shared nor copied evenly by 5 GPUs"
    )


@pytest.mark.parametrize("args", [["--dtype", "bfloat16"], ["-q", "mxfp4"]])
def test_a_gpu_without_bfloat16_is_left_out_where_it_is_needed(args):
    plain, asked = (
        one("T4", query(), tp=4),
        one("T4", query(DEFAULT_ENGINE.held(LLAMA, args)), tp=4),
    )
    assert plain.settings is not None and asked.settings is None
    assert asked.reason == f"T4 has no bfloat16, which {args[1]} needs in vLLM"


def test_an_asked_length_is_held_by_every_replica():
    args = ("--max-model-len", "60k")
    asked = query(DEFAULT_ENGINE.held(LLAMA, args), max_model_len=60000)
    assert one("H100", asked).settings.max_model_len == 60000
    small = one("L4", asked)
    held = one("L4", query()).settings.kv_cache_tokens
    assert small.settings is None
    assert (
        small.reason
        == f"the KV cache of 1 × L4 holds {held} tokens, --max-model-len asks for 60000"
    )


def test_fp8_weights_make_room_for_more_cache():
    plain, small = (
        one("A10G", query()),
        one("A10G", query(DEFAULT_ENGINE.held(LLAMA, ["-q", "fp8"]))),
    )
    assert small.settings.kv_cache_tokens > plain.settings.kv_cache_tokens


@pytest.mark.parametrize("size", [-1.0, float("nan"), 1e12])
def test_absurd_sizes_are_refused(size):
    with pytest.raises(InputError, match="request sizes"):
        one("A100", query(sizes=((size, 10),)))


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'A100'"):
        one("A1000", query())
    with pytest.raises(InputError, match="name for it is 'A100-80GB'"):
        one("A100-SXM4-80GB", query())
    with pytest.raises(InputError, match="unknown engine 'vlm'"):
        one("A100", query(generation="vlm"))


def test_rates_do_not_depend_on_how_many_threads_simulate(monkeypatch, tmp_path):
    shapes = [ReplicaShape(accelerator=name, tensor_parallel=1) for name in ("L4", "A10G", "H100")]
    asked = query(slo=SLO(tpot_s=0.043, ttft_s=1.1), exact=True)
    found = []
    for threads in (1, 2, 7):
        monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / f"with {threads}"))
        monkeypatch.setattr(lookup, "usable_cores", lambda threads=threads: threads)
        monkeypatch.setattr(lookup, "MOST_THREADS", threads)
        found.append([capacity.cells for capacity in replica_capacities(asked, shapes)])
    assert found[0] == found[1] == found[2]
    assert any(cell.max_rate_rps for cells in found[0] for row in cells for cell in row)
