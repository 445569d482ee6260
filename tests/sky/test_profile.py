"""Measure a real vLLM on two GPU types by profiling jobs, lose one on the way, plan, serve, stream.

Real: SkyPilot's managed jobs and SkyServe, Slurm, vLLM (its CPU build, with a tiny model of random
weights). Simulated: the GPUs.
"""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import pytest
import yaml

from melange_sky.profiletable import MeasuredCell, ProfileTable, load_tables
from tests.sky.bed import Bed
from tests.sky.client import Story, gateway, running, wait_for, write_offers
from tests.stack.vllm_server import ENVIRONMENT, FLAGS

pytestmark = [pytest.mark.sky, pytest.mark.timeout(1800)]

SIZES = {(48, 24), (96, 24), (192, 24)}
Cells = dict[tuple[int, int], MeasuredCell]
ACCELERATORS = ("A100-80GB", "A10G")
PROMPT_TOKENS, OUTPUT_TOKENS = 150, 24
# Two short probes per size will do: what is asserted here does not depend on the rates found.
QUICK = (
    "--max-requests",
    "60",
    "--tolerance",
    "0.5",
    "--max-lateness-ms",
    "5000",
    "--error-bound",
    "0.001",
)


class Desk:
    """A user's machine: a folder with the spec and, apart from it, a store of one's own."""

    def __init__(self, bed: Bed, folder: Path) -> None:
        self.bed, self.folder = bed, folder
        folder.mkdir()

    def melange(self, *words: str, timeout_s: float = 600) -> str:
        """Run a command in this folder, with this machine's store; return what it printed."""
        done = self.bed.run(
            "melange-sky",
            *words,
            timeout_s=timeout_s,
            extra_env={"MELANGE_SKY_HOME": str(self.folder / "store")},
        )
        assert done.returncode == 0, f"{words[:2]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


def write_spec(bed: Bed, path: Path) -> None:
    """Write a spec whose `engine` is all that makes a GPU service one of the CPU build."""
    at = FLAGS.index("--max-model-len")  # the plan says it
    spec = {
        "name": "real",
        "model": str(bed.model),
        "model_config": str(bed.model / "config.json"),
        "slo": {"tpot_ms": 2000, "ttft_ms": 10000, "attainment": 0.8},
        "workload": {
            "rate_rps": 0.2,
            "histogram": {
                "input_edges": [0, 48, 96, 192],
                "output_edges": [0, 24],
                "weights": [[0.3], [0.3], [0.4]],
            },
        },
        # By count: a CPU that measures low would make an unmeasured pair of GPUs look better.
        "resources": {"accelerators": [f"{name}:1" for name in ACCELERATORS]},
        "engine": {
            "args": [*FLAGS[:at], *FLAGS[at + 2 :]],
            "env": ENVIRONMENT,
            "setup": 'mkdir -p "$HOME/.local/bin"\n'
            f'ln -sf {bed.engine}/bin/vllm "$HOME/.local/bin/vllm"\n',
        },
    }
    path.write_text(yaml.safe_dump(spec, sort_keys=False))


def profile_and_serve(bed: Bed) -> None:
    """The whole story."""
    story = Story("profile")
    first, second = Desk(bed, bed.home / "first"), Desk(bed, bed.home / "second")
    spec, offers = bed.home / "real.yaml", write_offers(bed.home)
    write_spec(bed, spec)
    launch(bed, first, spec, offers)
    story.note("two jobs launched; the launcher is gone")
    kept = lose_the_node(bed, "A10G")
    story.note(f"A10G's node lost after {len(kept)} of {len(SIZES)} sizes")
    finish(bed, second, spec)
    story.note("both jobs succeeded, nothing left running")
    check_tables(collect(second, spec), kept)
    nothing = json.loads(
        second.melange(*launch_words(bed, spec, offers), "--dry-run", "--format", "json")
    )
    assert [(row["sizes"], row["launch"]) for row in nothing] == [([], False)] * 2
    story.note("collected on another machine: no size lost, none measured twice")
    planned = json.loads(
        second.melange(
            "plan",
            str(spec),
            "--offline",
            "--offers",
            str(offers),
            "-o",
            str(second.folder / "fleet"),
            "--format",
            "json",
        )
    )
    assert {row["capacity_origin"] for row in planned["allocations"]} == {"measured"}
    serve(second, story)


def launch_words(bed: Bed, spec: Path, offers: Path) -> list[str]:
    return [
        "profile",
        "launch",
        str(spec),
        "--offline",
        "--offers",
        str(offers),
        "--bucket",
        str(bed.shared / "profiles"),
        *QUICK,
    ]


def launch(bed: Bed, desk: Desk, spec: Path, offers: Path) -> None:
    """Launch and leave."""
    rows = json.loads(
        desk.melange(*launch_words(bed, spec, offers), "--yes", "--detach", "--format", "json")
    )
    assert [row["accelerator"] for row in rows] == [f"{name}:1" for name in ACCELERATORS]
    assert all(row["limit_usd"] >= row["estimated_usd"] > 0 and row["launch"] for row in rows)
    assert all(set(map(tuple, row["sizes"])) <= SIZES and row["sizes"] for row in rows), rows


def cells_on(bed: Bed, accelerator: str) -> Cells:
    """Return what the accelerator's job has put into the shared folder so far."""
    tables = load_tables(bed.shared / "profiles" / f"real-profile-{accelerator.lower()}-1")
    return {(c.input_tokens, c.output_tokens): c for table in tables for c in table.cells}


def lose_the_node(bed: Bed, accelerator: str) -> Cells:
    """Cancel the job's node once it has measured a size and not yet all."""
    wait_for(lambda: bool(cells_on(bed, accelerator)), "the first size")
    prefix = f"real-profile-{accelerator.lower()}-"
    (number,) = running(bed, prefix)
    assert bed.run("scancel", number).returncode == 0
    wait_for(lambda: number not in running(bed, prefix), "the node's end", 60)
    kept = cells_on(bed, accelerator)
    assert 0 < len(kept) < len(SIZES), "the node ended too late to show anything"
    wait_for(lambda: bool(running(bed, prefix)), "another node for the job")
    return kept


def finish(bed: Bed, desk: Desk, spec: Path) -> None:
    """Wait, as another machine, until both jobs have succeeded and their nodes are free again."""

    def ended() -> bool:
        time.sleep(10)
        states = json.loads(desk.melange("profile", "status", str(spec), "--format", "json"))
        words = {row["status"] for row in states.values()}
        assert not {word for word in words if word.startswith("FAILED")}, states
        return len(states) == len(ACCELERATORS) and words == {"SUCCEEDED"}

    wait_for(ended, "the profiling jobs")
    wait_for(lambda: not running(bed, "real-profile-"), "emptying the jobs' nodes", 300)
    assert "profiler.job" not in bed.run("ps", "-u", "mskbed", "-o", "args").stdout


def collect(desk: Desk, spec: Path) -> dict[str, ProfileTable]:
    desk.melange("profile", "collect", str(spec))
    tables = load_tables(desk.folder / "store" / "profiles")
    assert len(tables) == len(ACCELERATORS)
    return {table.provenance.accelerator: table for table in tables}


def check_tables(tables: dict[str, ProfileTable], kept: Cells) -> None:
    """Every size is there once, and those from before the loss as they were then."""
    assert sorted(tables) == list(ACCELERATORS)
    for table in tables.values():
        sizes = [(c.input_tokens, c.output_tokens) for c in table.cells]
        assert sorted(sizes) == sorted(SIZES)  # the error bound leaves none to be inferred
        assert all(c.max_rate_rps and c.probes for c in table.cells), [
            c.reason for c in table.cells
        ]
        assert table.provenance.engine_version is not None
        assert "--enforce-eager" in table.provenance.engine_flags
    for size, cell in kept.items():
        again = next(c for c in tables["A10G"].cells if (c.input_tokens, c.output_tokens) == size)
        assert (again.measured_at, again.max_rate_rps) == (cell.measured_at, cell.max_rate_rps)
        assert len(again.probes) == len(cell.probes)


def serve(desk: Desk, story: Story) -> None:
    """Bring the measured plan up and stream tokens from vLLM through the gateway; then take it down."""
    fleet, seen = desk.folder / "fleet", desk.folder / "seen.yaml"
    started = interrupted_apply(desk, fleet)
    story.note("apply interrupted while vLLM was starting")
    desk.melange("apply", str(fleet), "--yes", timeout_s=1500)
    assert running(desk.bed, "real-") == started, "the second apply started something again"
    story.note("applied again: vLLM is served")
    words = ("--sky", "--observed", str(seen), "--tokenizer", str(desk.bed.model))
    with gateway(desk.bed, fleet, *words) as url:
        for asked in (1, 7, OUTPUT_TOKENS):
            stream(url, str(desk.bed.model), asked)
    story.note("tokens streamed through the gateway, max_tokens exact")
    status = json.loads(
        desk.melange("status", str(fleet), "--observed", str(seen), "--format", "json")
    )
    assert [row["ready"] for row in status["services"]] == [1]
    rates = [row["seen_rps"] for row in status["traffic"]["buckets"]]
    assert rates[:-1] == [0.0] * (len(rates) - 1) and rates[-1] > 0, status["traffic"]
    desk.melange("down", str(fleet), "--yes", timeout_s=900)
    wait_for(lambda: not running(desk.bed, "real-"), "emptying the nodes", 300)
    story.note("down, nothing left")


def interrupted_apply(desk: Desk, fleet: Path) -> dict[str, str]:
    """Press Ctrl-C once the first node is there; return the nodes."""
    process = Popen(
        ["melange-sky", "apply", str(fleet), "--yes"],
        env=desk.bed.env,
        cwd=desk.bed.home,
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
    )
    wait_for(
        lambda: bool(running(desk.bed, "real-")) or process.poll() is not None, "the first node"
    )
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None), told
    assert "Traceback" not in told, told
    return running(desk.bed, "real-")


def stream(url: str, model: str, max_tokens: int) -> None:
    """Stream one completion; prompt and output are counted exactly, and it does not come as one piece."""
    words = [f"w{10 + i}" for i in range(PROMPT_TOKENS)]
    body = {
        "model": model,
        "prompt": " ".join(words),
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    events: list[Any] = []
    with urllib.request.urlopen(request, timeout=120) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        data = [line[6:].strip() for line in response if line.startswith(b"data: ")]
    assert data.pop() == b"[DONE]"
    events = [json.loads(line) for line in data]
    (usage,) = [event["usage"] for event in events if event.get("usage")]
    assert usage["completion_tokens"] == max_tokens
    assert usage["prompt_tokens"] == PROMPT_TOKENS
    choices = [choice for event in events for choice in event["choices"]]
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["length"]
    assert max_tokens == 1 or len(choices) > 1


def test_profile_plan_serve(sky_bed: Bed) -> None:
    profile_and_serve(sky_bed)
