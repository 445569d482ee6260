"""`profile run --reuse`: prompts share what a workload's do, and tables count only for the like."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.planner.measuring import MeasureOptions, measure_endpoint
from melange_sky.prefixes import paths_of_hashes
from melange_sky.profiler import PromptStyle
from melange_sky.profiler.grid import identity_of, table_path
from melange_sky.profiler.metrics import ServerMetrics
from melange_sky.profiler.prompts import request_bodies
from melange_sky.profiler.shared_prompts import found_in_a_load, shared_ids, shared_parts
from melange_sky.profiles.measured import has_like_reuse
from melange_sky.profiletable import (
    MeasuredReuse,
    ProfileTable,
    Provenance,
    parse_table,
    table_text,
)
from melange_sky.reuse import Reuse, Spread
from tests.prefixes.brute import found_blocks

IDS = (1000, 30_000)


def reuse(hit: float = 0.6, distance: int = 4_000, shared: int = 64) -> Reuse:
    return Reuse(
        stack_distance=((0, 0.0), (shared, 0.1), (distance, hit)),
        infinite_hit=hit,
        block_tokens=16,
        shared_prefix_tokens=shared,
        shared_fraction=0.1,
        session_turns=Spread(mean=4.0, p95=9.0),
    )


@pytest.mark.parametrize(("hit", "shared"), [(0.3, 0), (0.6, 64), (0.85, 200)])
def test_prompts_find_what_the_workloads_do(hit: float, shared: int) -> None:
    size, count = (512, 32), 800
    wanted = reuse(hit, 3_000, shared)
    prompts = shared_ids(wanted, size, count, IDS, seed=1)
    assert prompts.shape == (count, 512)
    blocks = prompts.reshape(count, -1, 16)
    ids = np.array([[hash(tuple(block)) >> 4 for block in row.tolist()] for row in blocks])
    first = np.arange(0, count * 32 + 1, 32)
    inputs, outputs = np.full(count, 512), np.full(count, 32)
    paths = paths_of_hashes(first, ids.ravel(), inputs, id_tokens=16)
    found = 16 * sum(found_blocks(paths, inputs, outputs, 1 << 40)) / (512 * count)
    assert found == pytest.approx(hit, abs=0.04)
    small = 16 * sum(found_blocks(paths, inputs, outputs, 60)) / (512 * count)
    assert small < found - 0.1  # most distances are longer than a thousand tokens


@pytest.mark.parametrize("distance", [2_000, 20_000, 60_000])
def test_what_a_load_finds_is_foretold(distance: int) -> None:
    """Distances beyond its beginning are lost: as much as in the prompts themselves, told by brute force."""
    size, count = (512, 32), 200
    wanted = reuse(0.6, distance, 64)
    told, due = found_in_a_load(wanted, size, count)
    shares = []
    for seed in range(4):
        rows = shared_ids(wanted, size, count, IDS, seed=seed).reshape(count, -1, 16)
        blocks = [[row.tobytes() for row in prompt] for prompt in rows]
        known: set[bytes] = set()
        found = 0
        for prompt in blocks:
            new = [k for k, block in enumerate(prompt) if block not in known]
            found += min(new, default=len(prompt))
            known.update(prompt)
        shares.append(16 * found / (512 * count))
    assert due == pytest.approx(0.6, abs=0.01)
    assert told == pytest.approx(sum(shares) / len(shares), abs=0.04)


def test_a_file_whose_sessions_come_back_after_the_probe_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"

    def options(distance: int, most: int = 4000) -> MeasureOptions:
        told = reuse(0.6, distance, 64).document
        histogram = {"input_edges": [0, 512], "output_edges": [0, 32], "weights": [[1.0]]}
        text = {"workload": {"rate_rps": 1.0, "histogram": histogram, "reuse": told}}
        file.write_text(json.dumps(text))
        return MeasureOptions(
            url="http://127.0.0.1:9",
            model="m",
            accelerator="L4",
            inputs="512",
            outputs="32",
            tpot_ms=100,
            reuse=file,
            max_requests=most,
        )

    with pytest.raises(InputError) as refused:
        measure_endpoint(options(60_000))
    message = str(refused.value)
    assert "w.yaml: its sessions come back too late for a probe of 200 requests" in message
    assert "not 60%; give larger --input sizes" in message and "\n" not in message
    with pytest.raises(InputError, match=r"for a probe of 20 requests.*give --max-requests 200, "):
        measure_endpoint(options(3_000, most=20))
    with pytest.raises(SourceUnavailableError):  # nobody listens there: the file is good
        measure_endpoint(options(3_000))


def test_parts_of_short_prompts_and_of_figures_without_distances() -> None:
    assert shared_parts(reuse(shared=64), 2).repeated_tokens == 1
    alone = dataclasses.replace(reuse(0.0), stack_distance=(), session_turns=None)
    assert shared_parts(alone, 100).later_fraction == 0
    turns = dataclasses.replace(reuse(0.0), stack_distance=(), shared_prefix_tokens=0)
    assert shared_parts(turns, 100).later_fraction == pytest.approx(0.75)
    assert shared_ids(turns, (64, 8), 50, IDS, 1).shape == (50, 64)


def test_bodies_keep_exact_sizes_and_seeds_differ() -> None:
    style = PromptStyle(reuse=reuse())
    bodies = [json.loads(b) for b in request_bodies("m", (128, 8), 40, style, 3)]
    assert {len(body["prompt"]) for body in bodies} == {128}
    assert len({tuple(body["prompt"]) for body in bodies}) == 40
    other = [json.loads(b) for b in request_bodies("m", (128, 8), 40, style, 4)]
    assert bodies[0]["prompt"][:64] == other[0]["prompt"][:64]
    assert bodies[0]["prompt"][64:] != other[0]["prompt"][64:]
    with pytest.raises(InputError, match="--reuse and --prefix-share both"):
        PromptStyle(reuse=reuse(), prefix_share=0.5)


def test_a_table_keeps_its_reuse_and_serves_only_the_like(tmp_path: Path) -> None:
    cold = Provenance(model="m", accelerator="L4", accelerator_count=1)
    warm = dataclasses.replace(cold, reuse=MeasuredReuse.of(reuse()))
    assert "reuse" not in identity_of(cold)  # earlier tables keep their names
    assert table_path(tmp_path, cold) != table_path(tmp_path, warm)
    lines = table_text(ProfileTable(provenance=warm)).splitlines()
    assert parse_table(lines, "x").provenance == warm
    assert has_like_reuse(cold, None) and has_like_reuse(cold, reuse())
    assert has_like_reuse(warm, reuse()) and has_like_reuse(warm, reuse(0.63, 5_000))
    assert not has_like_reuse(warm, None)
    assert not has_like_reuse(warm, reuse(0.4))
    assert not has_like_reuse(warm, reuse(0.6, 40_000))


def test_a_file_without_reuse_is_told(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(
        "workload:\n  rate_rps: 1.0\n  histogram:\n    input_edges: [0, 100]\n"
        "    output_edges: [0, 100]\n    weights: [[1.0]]\n"
    )
    options = MeasureOptions(
        url="http://x", model="m", accelerator="L4", inputs="10", outputs="10", reuse=file
    )
    with pytest.raises(InputError, match=r"w\.yaml: has no workload\.reuse; `workload TRACE"):
        options.shared  # noqa: B018


def test_the_servers_own_hits_are_kept() -> None:
    metrics = ServerMetrics(names={"asked": "prefix_asked", "found": "prefix_found"})
    for asked, found in ((100, 10), (300, 110)):
        metrics.take(f'asked{{engine="0"}} {asked}.0\nfound{{engine="0"}} {found}.0\n')
    summary = metrics.summary()
    assert summary is not None and summary["prefix_hit_fraction"] == 0.5
