"""Jobs: what they carry, what they cost, and a whole job run by bash as SkyPilot would run it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.capacities import Origin
from melange_sky.errors import InputError
from melange_sky.planner.measuring_jobs import collect_job
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.profiling import (
    JobOptions,
    ProfilingJob,
    profiling_jobs,
    within_budget,
)
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery
from melange_sky.profiler.log_transport import frame, unframe
from melange_sky.profiler.sky_collect import merge, read_log
from melange_sky.profiletable import (
    ProfileTable,
    Provenance,
    load_tables,
    write_table,
)
from melange_sky.settings import profiles_dir
from tests.factories import make_measured

SPEC = """
name: chat
model: meta-llama/Llama-3.1-8B-Instruct
slo: {tpot_ms: 60, ttft_ms: 2000, attainment: 0.95}
workload:
  rate_rps: 8
  histogram: {input_edges: [0, 100, 1000], output_edges: [0, 50, 200], weights: [[0.2, 0.3], [0.4, 0.1]]}
resources: {accelerators: [A10G, "H100:1"], infra: [aws]}
engine: {args: [--enforce-eager]}
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("spec") / "chat.yaml"
    path.write_text(SPEC)
    offline = PlanRequest(prices=OfferQuery(offline=True), sensitivity=False)
    return plan_spec(path, offline).models[0]


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=5000), noise=st.text(max_size=50), seed=st.integers(0, 9))
def test_frames_survive_a_log(content: bytes, noise: str, seed: int) -> None:
    """Prefixes, colours, repeats and disorder do no harm."""
    lines = [f"\x1b[36m(job, pid=12)\x1b[0m {line}" for line in frame(content)]
    mixed = [*lines, noise, *lines]
    random.Random(seed).shuffle(mixed)
    assert unframe("\r\n".join(mixed)) == [content]


def test_damaged_frames_are_left_out() -> None:
    content = bytes(np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8))
    lines = list(frame(content))
    assert len(lines) > 2
    assert unframe("\n".join(lines[:-1])) == []
    spoiled = lines[1][:-3] + ("AAA" if not lines[1].endswith("AAA") else "BBB")
    assert unframe("\n".join([lines[0], spoiled, *lines[2:]])) == []
    assert unframe("") == []


def test_one_job_per_accelerator_with_the_planned_flags(plan: Any) -> None:
    jobs = profiling_jobs(plan, (), JobOptions())
    assert [job.accelerator.partition(":")[0] for job in jobs] == ["A10G", "H100"]
    for job in jobs:
        serve = job.document["envs"]["MELANGE_SERVE"]
        assert "--enforce-eager" in serve
        task = json.loads(job.document["envs"]["MELANGE_TASK"])
        assert task["provenance"]["engine_flags"][-1] == "--enforce-eager"
        assert job.document["resources"]["accelerators"] == job.accelerator
        assert job.document["secrets"]["HF_TOKEN"] is None  # a gated model: must be given at launch
        assert 0 < job.usd <= job.limit_usd
        assert job.usd == pytest.approx(job.minutes / 60 * job.price_usd_per_hour)
        assert 1 <= len(job.sizes) <= 4
    only = profiling_jobs(plan, (), JobOptions(accelerators=("h100:1",)))
    assert [job.accelerator for job in only] == ["H100:1"]
    with pytest.raises(InputError, match="no candidate"):
        profiling_jobs(plan, (), JobOptions(accelerators=("A10",)))
    with pytest.raises(InputError, match="--bucket"):
        profiling_jobs(plan, (), JobOptions(bucket="s3://x; rm -rf /"))


def test_a_job_is_bounded_by_the_dearest_region_in_which_it_may_start(plan: Any) -> None:
    (job,) = profiling_jobs(plan, (), JobOptions(accelerators=("H100:1",)))
    regions = {entry["infra"] for entry in job.document["resources"]["any_of"]}
    offers = {
        offer.price(False)
        for candidate in plan.candidates
        for offer in (candidate.option.offer, *candidate.option.fallbacks)
        if offer.instance_type == job.instance_type and f"{offer.cloud}/{offer.region}" in regions
    }
    assert job.dearest_usd_per_hour == max(offers) > min(offers) == job.price_usd_per_hour
    assert job.limit_usd == pytest.approx(job.limit_minutes / 60 * max(offers))
    assert within_budget([job], job.limit_minutes / 60 * min(offers)) == ((), (job,))


def test_a_measurement_answers_for_the_very_gpu_that_it_ran_on(tmp_path: Path) -> None:
    """Azure's H100 is an NVL: what is measured there says nothing of the SXM that AWS sells."""
    spec = tmp_path / "chat.yaml"
    spec.write_text(
        SPEC.replace('[A10G, "H100:1"], infra: [aws]', '["H100:1"], infra: [aws, azure]')
    )
    request = PlanRequest(prices=OfferQuery(offline=True), sensitivity=False)
    (nvl, sxm) = sorted(
        profiling_jobs(plan_spec(spec, request).models[0], (), JobOptions()),
        key=lambda job: job.infra,
        reverse=True,
    )
    assert (nvl.accelerator, sxm.accelerator) == ("H100-NVL:1", "H100:1")
    assert nvl.document["resources"]["accelerators"] == "H100:1"  # SkyPilot's name for both
    task = json.loads(nvl.document["envs"]["MELANGE_TASK"])
    flags = tuple(task["provenance"].pop("engine_flags"))
    made = Provenance(**task["provenance"], engine_flags=flags)
    assert made.accelerator == "H100-NVL"
    cells = tuple(make_measured(*size, 1.0) for size in nvl.sizes)
    table = ProfileTable(provenance=made, cells=cells)
    write_table(table, profiles_dir() / "nvl.profile.jsonl")
    (plan,) = plan_spec(spec, request).models
    origins = {
        candidate.option.gpu: {cell.origin for row in candidate.cells for cell in row}
        for candidate in plan.candidates
    }
    assert Origin.MEASURED in origins["H100-NVL"]
    assert origins["H100"] == {Origin.ESTIMATED}
    again = {job.accelerator: job for job in profiling_jobs(plan, (table,), JobOptions())}
    assert again["H100-NVL:1"].measured == len(nvl.sizes)
    assert again["H100:1"].measured == 0


def test_a_shared_folder_needs_no_mount_and_the_effort_reaches_the_job(plan: Any) -> None:
    options = JobOptions(bucket="/nfs/kept/", search={"max_requests": 60}, late_s=0.2)
    for job in profiling_jobs(plan, (), options):
        task = json.loads(job.document["envs"]["MELANGE_TASK"])
        assert task["folder"] == f"/nfs/kept/{job.name}"
        assert (task["search"], task["late_s"]) == ({"max_requests": 60}, 0.2)
        assert "file_mounts" not in job.document
    (mounted, _) = profiling_jobs(plan, (), JobOptions(bucket="s3://name/folder"))
    assert mounted.document["file_mounts"]["/melange-results"]["source"] == "s3://name/folder"
    assert "late_s" not in json.loads(mounted.document["envs"]["MELANGE_TASK"])
    for wrong in ("nfs/kept", "s3:/x", "/a b", "~/kept"):
        with pytest.raises(InputError, match="--bucket"):
            profiling_jobs(plan, (), JobOptions(bucket=wrong))


def test_launch_takes_own_offers_and_the_probes_effort(tmp_path: Path) -> None:
    """On the bed's kind of cluster: no catalog prices it, its owner does."""
    (tmp_path / "offers.csv").write_text(
        "cloud,region,instance_type,accelerator,accelerator_count,vcpus,memory_gib,"
        "price_usd_per_hour,source,as_of\nslurm,mine,own.a10g,A10G,1,4,16,0.2,own books,2026-11-01\n"
    )
    (tmp_path / "chat.yaml").write_text(SPEC.replace(", infra: [aws]", ""))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "melange_sky",
            "profile",
            "launch",
            "chat.yaml",
            "--dry-run",
            "--offline",
            "--offers",
            "offers.csv",
            "--accelerators",
            "A10G",
            "--max-requests",
            "60",
            "--tolerance",
            "0.4",
            "--max-lateness-ms",
            "500",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MELANGE_SKY_HOME": str(tmp_path / "home")},
    )
    assert done.returncode == 0, done.stderr
    assert "slurm/mine own.a10g" in done.stdout
    assert '"max_requests": 60' in done.stdout and '"late_s": 0.5' in done.stdout


def test_sky_accepts_the_job(plan: Any, tmp_path: Path) -> None:
    """SkyPilot's own parser, in a process of its own: it looks for its home when it is imported."""
    (job,) = profiling_jobs(plan, (), JobOptions(accelerators=("H100",), bucket="s3://b/x"))
    from melange_sky.rendering.services import dump

    file = tmp_path / "job.yaml"
    file.write_text(dump(job.document))
    code = (
        "import sys, sky; t = sky.Task.from_yaml(sys.argv[1]);"
        "assert t.name == 'chat-profile-h100-1', t.name;"
        "assert 'melange_sky.profiler.job' in t.run; assert 'MELANGE_TASK' in t.envs"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(file)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_budget_is_hard(plan: Any) -> None:
    jobs = profiling_jobs(plan, (), JobOptions())
    everything, none = within_budget(jobs, None)
    assert (len(everything), none) == (2, ())
    low = min(job.limit_usd for job in jobs)
    taken, left = within_budget(jobs, low + 0.01)
    assert (len(taken), len(left)) == (1, 1)
    assert sum(job.limit_usd for job in taken) <= low + 0.01
    assert within_budget(jobs, 0.0) == ((), tuple(sorted(jobs, key=lambda j: j.limit_usd)))
    short = profiling_jobs(plan, (), JobOptions(max_minutes=30))
    assert all(job.limit_minutes <= 30 for job in short)


def run_job(job: ProfilingJob, home: Path, **changed: Any) -> subprocess.CompletedProcess[str]:
    """Run the job's script under bash, `vllm` being the server of known timing."""
    task = json.loads(job.document["envs"]["MELANGE_TASK"]) | changed
    known = Path(__file__).with_name("known_server.py")
    bin_folder = home / "bin"
    bin_folder.mkdir(parents=True, exist_ok=True)
    vllm = bin_folder / "vllm"
    vllm.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        f"port = sys.argv[sys.argv.index('--port') + 1]\n"
        f"os.execv(sys.executable, [sys.executable, {str(known)!r}, '--port', port, '--model', sys.argv[2],"
        " '--ttft', '0.005', '--itl', '0.0005', '--slots', '2', '--stay'])\n"
    )
    vllm.chmod(0o755)
    envs = {**job.document["envs"], "MELANGE_TASK": json.dumps(task), "VLLM_API_KEY": ""}
    envs["MELANGE_SERVE"] = envs["MELANGE_SERVE"].replace("--port 8000", f"--port {task['port']}")
    return subprocess.run(
        ["bash", "-c", job.document["run"]],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd="/",
        env={"HOME": str(home), "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin", **envs},
    )


def test_a_job_of_another_engine_runs_its_server(tmp_path: Path) -> None:
    """The engine's template, program, key and pages reach the job; its table names the engine."""
    from tests.stack.vllm_server import free_port

    spec = tmp_path / "chat.yaml"
    spec.write_text(SPEC.replace("engine: {args: [--enforce-eager]}", "engine: {name: sglang}"))
    plan = plan_spec(spec, PlanRequest(prices=OfferQuery(offline=True), sensitivity=False))
    options = JobOptions(accelerators=("H100",))
    (job,) = profiling_jobs(plan.models[0], (), options)
    assert job.document["secrets"] == {"SGLANG_API_KEY": "", "HF_TOKEN": None}
    assert "vllm" not in job.document["setup"] + job.document["run"].rpartition("'\n")[2]
    port = free_port()
    task = json.loads(job.document["envs"]["MELANGE_TASK"]) | {
        "port": port,
        "search": QUICK,
        "late_s": 1.0,
        "budget_s": 90,
        "demand": {
            "sizes": [[20, 2]],
            "weights": [1],
            "guesses_rps": [50],
            "error_bound": 0.001,
        },
    }
    known = Path(__file__).with_name("known_server.py")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "sglang").write_text(f"#!{sys.executable}\n")
    (bin_folder / "python3").write_text(
        '#!/bin/bash\n[ "$1 $2" = "-m sglang.launch_server" ] || exit 9\n'
        f'exec {sys.executable} {known} --port {port} --model "$4" --key "${{@: -1}}"'
        " --ttft 0.005 --itl 0.0005 --slots 2 --stay\n"
    )
    for program in bin_folder.iterdir():
        program.chmod(0o755)
    # The stand-in demands the last word it was started with: the key, as the server takes it.
    envs = job.document["envs"] | {"MELANGE_TASK": json.dumps(task), "SGLANG_API_KEY": "k-1"}
    envs["MELANGE_SERVE"] = envs["MELANGE_SERVE"].replace('"--api-key=$', '"$')
    done = subprocess.run(
        ["bash", "-c", job.document["run"]],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd="/",
        env={"HOME": str(tmp_path), "PATH": f"{bin_folder}:/usr/local/bin:/usr/bin:/bin", **envs},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (table,) = read_log(done.stdout, "log").tables
    assert (table.provenance.engine, table.provenance.engine_version) == ("sglang", "8.8.8")
    assert "--max-running-requests" in table.provenance.engine_flags
    assert "k-1" not in " ".join(table.provenance.engine_flags)


QUICK = {"tolerance": 0.4, "max_requests": 40, "min_requests": 40, "confirm_requests": 40}


def test_a_whole_job_sends_its_tables_and_a_second_life_repeats_nothing(
    plan: Any, tmp_path: Path
) -> None:
    from tests.stack.vllm_server import free_port

    (job,) = profiling_jobs(plan, (), JobOptions(accelerators=("H100",)))
    changed = {
        "port": free_port(),
        "search": QUICK,
        "late_s": 1.0,
        "budget_s": 90,
        "demand": {
            "sizes": [[20, 2], [30, 2]],
            "weights": [1, 1],
            "guesses_rps": [50, 50],
            "error_bound": 0.001,
        },
    }
    first = run_job(job, tmp_path / "node", **changed)
    assert first.returncode == 0, first.stdout[-2000:] + first.stderr[-2000:]
    said = read_log(first.stdout, "log")
    assert said.done
    assert said.error is None
    store = tmp_path / "store"
    assert sum(merge(said.tables, store).values()) == 2
    (table,) = load_tables(store)
    assert [(c.input_tokens, c.output_tokens) for c in table.cells] == [(20, 2), (30, 2)]
    assert table.provenance.accelerator == "H100"
    assert "--enforce-eager" in table.provenance.engine_flags
    assert merge(said.tables, store) == {}  # collected twice: nothing changes
    again = run_job(job, tmp_path / "node", **changed)
    assert again.returncode == 0
    later = read_log(again.stdout, "log")
    assert merge(later.tables, store) == {}  # sent again, measured once
    assert sum(len(t.cells) for t in later.tables) == 2
    # What is measured needs no job: the next launch asks for the rest alone.
    cells = tuple(
        replace(table.cells[0], input_tokens=i, output_tokens=o, slo=plan.slo)
        for i, o in job.sizes[:2]
    )
    left = profiling_jobs(plan, (replace(table, cells=cells),), JobOptions(accelerators=("H100",)))[
        0
    ]
    assert left.measured == 2
    bursts = replace(table.provenance, arrivals="bursts.csv sha256:0123456789ab")
    of_a_trace = replace(table, provenance=bursts, cells=cells)
    (whole,) = profiling_jobs(plan, (of_a_trace,), JobOptions(accelerators=("H100",)))
    assert (whole.measured, whole.sizes) == (0, job.sizes)
    # Which of the rest comes first is chosen anew from what the measured ones showed.
    assert set(left.sizes) <= set(job.sizes[2:])


def test_what_a_job_left_unmeasured_is_told_though_it_succeeded(plan: Any, tmp_path: Path) -> None:
    """A budget that ends at once: the job says so, and so does the line that collects it."""
    from tests.stack.vllm_server import free_port

    (job,) = profiling_jobs(plan, (), JobOptions(accelerators=("H100",)))
    changed = {
        "port": free_port(),
        "search": QUICK,
        "late_s": 1.0,
        "budget_s": 1,
        "demand": {
            "sizes": [[20, 2], [30, 2]],
            "weights": [1, 1],
            "guesses_rps": [50, 50],
            "error_bound": 0.001,
        },
    }
    done = run_job(job, tmp_path / "node", **changed)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = read_log(done.stdout, "log")
    assert said.done
    assert said.left is not None and said.left.endswith("sizes not measured: budget spent")

    api: Any = SimpleNamespace(log=lambda *_: done.stdout)
    state: Any = SimpleNamespace(status="SUCCEEDED")
    line = collect_job(api, "chat", state, tmp_path / "store")
    assert line.endswith("sizes not measured: budget spent")


def test_a_server_that_dies_is_one_line(plan: Any, tmp_path: Path) -> None:
    (job,) = profiling_jobs(plan, (), JobOptions(accelerators=("H100",)))
    job.document["envs"]["MELANGE_SERVE"] = "exit 7"
    done = run_job(job, tmp_path, port=1)
    assert done.returncode == 4
    assert read_log(done.stdout, "log").error == (
        "the server ended with code 7 before it was ready; its log stands above"
    )


def test_dry_run_launches_nothing_and_shows_cost(tmp_path: Path) -> None:
    spec = tmp_path / "chat.yaml"
    spec.write_text(SPEC)
    words = [
        sys.executable,
        "-m",
        "melange_sky",
        "profile",
        "launch",
        str(spec),
        "--dry-run",
        "--offline",
    ]
    env = {**os.environ, "MELANGE_SKY_HOME": str(tmp_path / "home")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "2 jobs: about $" in done.stdout
    assert "name: chat-profile-h100-1" in done.stdout
    assert "vllm serve meta-llama/Llama-3.1-8B-Instruct" in done.stdout
    table = subprocess.run(
        [*words, "--format", "json", "--max-usd", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=env,
    )
    rows = json.loads(table.stdout)
    assert [row["launch"] for row in rows] == [False, False]
    assert all(row["limit_usd"] >= row["estimated_usd"] > 0 for row in rows)
