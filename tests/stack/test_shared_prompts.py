"""`profile run --reuse` against a real vLLM server: prompts find in its cache what the file asks for."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from melange_sky.engines import DEFAULT_ENGINE
from melange_sky.metrics_page import samples
from melange_sky.profiletable import load_tables
from tests.stack.vllm_server import ROOT, vllm_server

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

HIT, SHARED, INPUT = 0.6, 64, 512


def test_hits_found_are_hits_asked(model: Path, tmp_path: Path) -> None:
    reuse = {
        "stack_distance": [[0, 0.0], [SHARED, SHARED / INPUT], [1500, HIT]],
        "infinite_hit": HIT,
        "block_tokens": 16,
        "shared_prefix_tokens": SHARED,
        "shared_fraction": SHARED / INPUT,
        "session_turns": {"mean": 4.0, "p95": 8.0},
    }
    histogram = {"input_edges": [0, INPUT], "output_edges": [0, 16], "weights": [[1]]}
    file = tmp_path / "shared.yaml"
    file.write_text(json.dumps({"workload": {"histogram": histogram, "reuse": reuse}}))
    with vllm_server(model, tmp_path / "vllm.log", "--enable-prefix-caching") as url:
        words = (
            f"--url {url} --model tiny --accelerator A10G:1 --input {INPUT} --output 16 --ttft-ms 500 --tpot-ms 100 "
            f"--attainment 0.9 --max-lateness-ms 250 --tolerance 0.5 --max-requests 60 --reuse {file} -o {tmp_path / 'out'}"
        )
        done = subprocess.run(
            [sys.executable, "-m", "melange_sky", "profile", "run", *words.split()],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        page = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    totals = dict(samples(page, DEFAULT_ENGINE.metrics))
    whole = totals["prefix_found"] / totals["prefix_asked"]
    (table,) = load_tables(tmp_path / "out")
    seen = [(len(p.log.ok), p.server) for c in table.cells for p in c.probes if p.server]
    hits = [(n, s["prefix_hit_fraction"]) for n, s in seen if "prefix_hit_fraction" in s]
    print(whole, hits)
    assert whole == pytest.approx(HIT, abs=0.1)
    mean = sum(n * hit for n, hit in hits) / sum(n for n, _ in hits)
    assert mean == pytest.approx(HIT, abs=0.1)
