"""A real vLLM server, no stand-in: profiled, killed and resumed, repeated and cross-checked."""

from __future__ import annotations

import math
import os
import subprocess
from pathlib import Path

import pytest

from melange_sky.engines.vllm import WEIGHTS
from melange_sky.profiletable import load_tables
from tests.stack import profiling
from tests.stack.vllm_server import ENVIRONMENT, VENV

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def pair(server: str, tmp_path_factory: pytest.TempPathFactory) -> profiling.Pair:
    """The 3 × 3 grid twice, the first killed in the middle and resumed."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    return profiling.run_pair(server, *folders)


@pytest.mark.long
def test_a_killed_profile_goes_on_without_losing_or_repeating_a_cell(pair: profiling.Pair) -> None:
    assert 4 <= len(pair.left.cells) < 6
    (table,) = load_tables(pair.first)
    for old, new in zip(pair.left.cells, table.cells, strict=False):
        assert (old.measured_at, old.seconds, len(old.probes)) == (
            new.measured_at,
            new.seconds,
            len(new.probes),
        )
    assert len(pair.one["kept"]) == 6  # the two rows that were there before the last run


@pytest.mark.long
def test_grid_is_complete_and_token_counts_are_exact(pair: profiling.Pair) -> None:
    (table,) = load_tables(pair.first)
    assert {(c.input_tokens, c.output_tokens) for c in table.cells} == profiling.SIZES
    assert len(table.cells) == 9
    for cell in table.cells:
        for probe in cell.probes:
            done = probe.log.ok
            assert (probe.log.input_tokens[done] == cell.input_tokens).all()
            assert (probe.log.output_tokens[done] == cell.output_tokens).all()
    assert table.provenance.engine_version is not None
    assert len(profiling.rates(pair.one)) == 9


def test_quantization_methods_are_those_that_vllm_takes() -> None:
    code = (
        "from vllm.config.quantization import ONLINE_QUANT_SHORTHAND_NAMES as online\n"
        "from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS as known\n"
        "print('METHODS', *known); print('ONLINE', *online)"
    )
    said = subprocess.run(
        [VENV / "bin" / "python", "-c", code],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lists = {line.split()[0]: set(line.split()[1:]) for line in said.splitlines() if line.strip()}
    assert set(WEIGHTS.bits) <= lists["METHODS"]
    # These two quantise a 16-bit checkpoint under their own names too.
    assert WEIGHTS.online - {"fp8", "experts_int8"} <= lists["ONLINE"]


@pytest.mark.long
def test_server_metrics_are_kept(pair: profiling.Pair) -> None:
    (table,) = load_tables(pair.first)
    seen = [p.server for c in table.cells for p in c.probes if p.server]
    assert seen
    assert all({"running_max", "waiting_max", "kv_use_max", "preemptions"} <= set(s) for s in seen)
    assert max(s["running_max"] for s in seen) <= 4  # --max-num-seqs


@pytest.mark.long
def test_two_runs_agree(pair: profiling.Pair) -> None:
    """Other prompts and arrivals: the same rates within 40 % over the grid."""
    one, two = profiling.rates(pair.one), profiling.rates(pair.two)
    logs = [math.log(two[size] / one[size]) for size in sorted(profiling.SIZES)]
    apart = math.exp(sorted(map(abs, logs))[len(logs) // 2]) - 1
    print({size: (round(one[size], 1), round(two[size], 1)) for size in sorted(one)}, apart)
    assert apart <= 0.4, {size: (one[size], two[size]) for size in sorted(one)}


@pytest.mark.long
def test_agrees_with_vllm_bench(
    server: str, model: Path, pair: profiling.Pair, tmp_path: Path
) -> None:
    """Median TTFT and TPOT within 30 % or 5 ms of `vllm bench serve` at the same size and rate."""
    folder = tmp_path / "copy"
    folder.mkdir()
    (path,) = pair.first.glob("*.profile.jsonl")
    (folder / path.name).write_bytes(path.read_bytes())
    check = profiling.run(server, folder, *profiling.bench_flags(model))["cross_check"]
    print(check)
    assert check["bench_completed"] == check["requests"] * check["passes"]
    for name in ("ttft_ms", "tpot_ms"):
        ours, theirs = check[name], check[f"bench_{name}"]
        assert abs(ours - theirs) <= max(5.0, 0.3 * theirs), check


@pytest.mark.long
def test_plan_uses_the_measured_rates(model: Path, pair: profiling.Pair, tmp_path: Path) -> None:
    """The table becomes the capacity of that model on that accelerator."""
    (path,) = pair.first.glob("*.profile.jsonl")
    said = profiling.plan_with(path, model, tmp_path)
    (used,) = said["allocations"]
    assert used["capacity_origin"] == "measured"
    # One request size and one option: what the plan divides by is the measured rate.
    capacity = said["workload"]["rate_rps"] / used["instances"] / used["load_fraction"]
    assert capacity == pytest.approx(profiling.rates(pair.one)[512, 32], rel=1e-6)
