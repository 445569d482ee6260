"""A real vLLM server, no stand-in: profiled, killed and resumed, repeated and cross-checked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from melange_sky.profiletable import load_tables
from tests.stack import profiling

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def first(server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The 3 × 3 grid, killed after three cells and resumed."""
    folder = tmp_path_factory.mktemp("first")
    left = profiling.run_and_kill(server, folder, cells=3)
    assert 3 <= len(left.cells) < 9
    document = profiling.run(server, folder)
    (table,) = load_tables(folder)
    assert len(document["kept"]) == len(left.cells)
    for old, new in zip(left.cells, table.cells, strict=False):
        assert (old.measured_at, old.seconds, len(old.probes)) == (
            new.measured_at, new.seconds, len(new.probes)
        )  # fmt: skip
    return folder, document


def test_grid_is_complete_and_token_counts_are_exact(first: tuple[Path, Any]) -> None:
    (table,) = load_tables(first[0])
    assert {(c.input_tokens, c.output_tokens) for c in table.cells} == profiling.SIZES
    assert len(table.cells) == 9
    for cell in table.cells:
        for probe in cell.probes:
            done = probe.log.ok
            assert (probe.log.input_tokens[done] == cell.input_tokens).all()
            assert (probe.log.output_tokens[done] == cell.output_tokens).all()
    assert table.provenance.engine_version is not None
    assert len(profiling.rates(first[1])) == 9


def test_server_metrics_are_kept(first: tuple[Path, Any]) -> None:
    (table,) = load_tables(first[0])
    seen = [p.server for c in table.cells for p in c.probes if p.server]
    assert seen
    assert all({"running_max", "waiting_max", "kv_use_max", "preemptions"} <= set(s) for s in seen)
    assert max(s["running_max"] for s in seen) <= 4  # --max-num-seqs


def test_two_runs_agree(server: str, first: tuple[Path, Any], tmp_path: Path) -> None:
    """Other prompts and arrivals: the same rates within 40 % over the grid."""
    second = profiling.rates(profiling.run(server, tmp_path, "--seed", "100"))
    one = profiling.rates(first[1])
    logs = [math.log(second[size] / one[size]) for size in sorted(profiling.SIZES)]
    apart = math.exp(sorted(map(abs, logs))[len(logs) // 2]) - 1
    assert apart <= 0.4, {size: (one[size], second[size]) for size in sorted(one)}


def test_agrees_with_vllm_bench(
    server: str, model: Path, first: tuple[Path, Any], tmp_path: Path
) -> None:
    """Median TTFT and TPOT within 30 % or 5 ms of `vllm bench serve` at the same size and rate."""
    folder = tmp_path / "copy"
    folder.mkdir()
    (path,) = first[0].glob("*.profile.jsonl")
    (folder / path.name).write_bytes(path.read_bytes())
    check = profiling.run(server, folder, *profiling.bench_flags(model))["cross_check"]
    assert check["bench_completed"] == check["requests"]
    for name in ("ttft_ms", "tpot_ms"):
        ours, theirs = check[name], check[f"bench_{name}"]
        assert abs(ours - theirs) <= max(5.0, 0.3 * theirs), check
