"""Whole runs through the command line, against a server of known timing."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from melange_sky.capacity_search import SearchOptions, SizeDemand, find_max_rate
from melange_sky.errors import SourceUnavailableError
from melange_sky.planner.measuring import Measurement
from melange_sky.profiler import (
    Endpoint,
    EndpointTarget,
    GridOptions,
    Progress,
    PromptStyle,
    measure_grid,
)
from melange_sky.profiler.grid import table_path
from melange_sky.profiletable import (
    MeasuredCell,
    ProfileTable,
    Provenance,
    load_tables,
    write_table,
)
from melange_sky.report.measuring import measured_text
from melange_sky.slo import SLO
from tests.profiler.conftest import StartServer


def command(url: str, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "melange_sky",
        "profile",
        "run",
        "--url",
        url,
        "--model",
        "known",
        "--accelerator",
        "A10G:1",
        "--input",
        "20",
        "--output",
        "2",
        "--ttft-ms",
        "400",
        "--timeout",
        "2",
        "--max-lateness-ms",
        "2000",
        "--tolerance",
        "0.4",
        "--max-requests",
        "40",
        "-o",
        str(out),
        *more,
    ]


def profile(url: str, out: Path, *more: str, env: dict[str, str] | None = None) -> Any:
    return subprocess.run(
        command(url, out, *more),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, **(env or {})},
    )


def test_a_concurrency_limit_is_found(start_server: StartServer) -> None:
    """One slot and constant service S: λ* solves P(wait ≤ limit) = a of M/D/1."""
    from tests.test_capacity_search import md1_max_rate

    url = start_server(ttft=0.008, itl=0.0, slots=1)
    # The server holds its slot for what a timer really takes; measure that, do not assume it.
    endpoint = Endpoint(url=url, model="known", timeout_s=20)
    target = EndpointTarget(
        endpoint=endpoint, input_tokens=20, output_tokens=1, style=PromptStyle(), late_s=1.0
    )
    burst = target.probe(1000.0, 100, seed=1)
    service = float(burst.last_token_s.max() - burst.first_token_s.min()) / 99
    limit = 8 * service
    options = SearchOptions(
        start_rps=0.8 / service,
        min_requests=150,
        confirm_requests=250,
        max_requests=250,
        max_probes=6,
    )
    result = find_max_rate(target, SLO(ttft_s=limit, attainment=0.9), options)
    truth = md1_max_rate(service, limit, 0.9)
    assert result.max_rate_rps == pytest.approx(truth, rel=0.25), (result.reason, service)


def test_run_resume_and_other_slo(start_server: StartServer, tmp_path: Path) -> None:
    url = start_server(ttft=0.01, itl=0.001, slots=2)
    first = profile(url, tmp_path, "--output", "2,8", "--format", "json")
    assert first.returncode == 0, first.stderr
    said = json.loads(first.stdout)
    assert [(c["input_tokens"], c["output_tokens"]) for c in said["cells"]] == [(20, 2), (20, 8)]
    assert all(c["max_rate_rps"] > 10 and c["origin"] == "measured" for c in said["cells"])
    (table,) = load_tables(tmp_path)
    assert table.provenance.engine_version == "9.9.9"
    assert all((p.log.output_tokens[p.log.ok] == 8).all() for p in table.cells[1].probes)
    before = (tmp_path / Path(said["table"]).name).read_bytes()
    again = profile(url, tmp_path, "--output", "2,8")
    assert again.returncode == 0
    assert "measured" in again.stdout
    assert (tmp_path / Path(said["table"]).name).read_bytes() == before  # nothing sent again


@pytest.mark.parametrize(
    ("engine", "version", "kv_use"), [("vllm", "9.9.9", 0.25), ("sglang", "8.8.8", 0.5)]
)
def test_each_engines_own_pages_are_read(
    start_server: StartServer, tmp_path: Path, engine: str, version: str, kv_use: float
) -> None:
    url = start_server(ttft=0.01, itl=0.001, slots=2)
    done = profile(url, tmp_path, "--engine", engine, "--format", "json")
    assert done.returncode == 0, done.stderr
    (table,) = load_tables(tmp_path)
    assert (table.provenance.engine, table.provenance.engine_version) == (engine, version)
    said = [p.server for p in table.cells[0].probes if p.server]
    assert said and all(s["kv_use_max"] == kv_use and "running_max" in s for s in said)
    assert all({"waiting_max", "preemptions"} <= set(s) for s in said)


def test_kill_9_in_the_middle_loses_and_repeats_nothing(
    start_server: StartServer, tmp_path: Path
) -> None:
    url = start_server(ttft=0.01, itl=0.001, slots=2)
    words = command(url, tmp_path, "--input", "20,30,40")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        tables = load_tables(tmp_path)
        if tables and tables[0].cells:
            break
        time.sleep(0.02)
    process.kill()
    process.wait()
    (left,) = load_tables(tmp_path)
    assert 1 <= len(left.cells) < 3
    done = profile(url, tmp_path, "--input", "20,30,40")
    assert done.returncode == 0, done.stderr
    (table,) = load_tables(tmp_path)
    assert [c.input_tokens for c in table.cells] == [20, 30, 40]
    for old, new in zip(left.cells, table.cells, strict=False):
        assert (old.measured_at, old.seconds, len(old.probes)) == (
            new.measured_at,
            new.seconds,
            len(new.probes),
        )


@pytest.mark.parametrize(
    ("fault", "after", "code", "told"),
    [
        ("500", 0, 4, "did not answer a short completion: HTTP 500: engine died"),
        ("500", 100, 4, "failed under load"),
        ("die", 100, 4, "failed under load"),
        ("malformed", 100, 4, r"malformed SSE: \{broken"),
        ("early", 100, 4, r"the stream ended early, without \[DONE\]"),
        # which of the two sizes is under way at the 100th request is the clock's choice
        ("short", 100, 4, r"ended early: 1 of [23] output tokens \(min_tokens ignored\?\)"),
        ("hang", 0, 4, "did not answer a short completion: nothing came within 2 s"),
        ("hang", 60, 4, "answered none of"),
        ("miscount", 100, 2, "does not take token ids as they are"),
        ("not-json", 0, 4, "is not JSON"),
    ],
)
def test_faults_are_one_clear_line(
    start_server: StartServer, tmp_path: Path, fault: str, after: int, code: int, told: str
) -> None:
    done = profile(start_server(fault=fault, after=after), tmp_path, "--output", "2,3")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1
    assert re.search(told, errors[0]), errors[0]
    assert "Traceback" not in done.stderr
    assert len(errors[0]) < 500
    if after:
        assert "are kept in" in errors[0]
        assert len(load_tables(tmp_path)) == 1


def test_refusals_are_one_clear_line(start_server: StartServer, tmp_path: Path) -> None:
    locked = start_server(key="s3cret")
    env = {"OPENAI_API_KEY": ""}
    done = profile(locked, tmp_path, env=env)
    assert (done.returncode, "wants a valid key" in done.stderr) == (2, True)
    opened = profile(locked, tmp_path, "--output", "1", env={"OPENAI_API_KEY": "s3cret"})
    assert opened.returncode == 0, opened.stderr
    assert "s3cret" not in opened.stdout + opened.stderr
    assert all("s3cret" not in path.read_text() for path in tmp_path.iterdir())
    url = start_server()
    wrong = profile(url, tmp_path, "--model", "other")
    assert (wrong.returncode, "does not serve 'other'; it serves: known" in wrong.stderr) == (
        2,
        True,
    )
    long = profile(url, tmp_path, "--input", "4095", "--output", "2")
    assert (long.returncode, "at most 4096 tokens" in long.stderr) == (2, True)
    dead = profile("http://127.0.0.1:9", tmp_path)
    assert (dead.returncode, "cannot be reached" in dead.stderr) == (4, True)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--url", "ftp://x"],
        ["--url", "x"],
        ["--input", "a"],
        ["--input", "0"],
        ["--output", ""],
        ["--accelerator", "A10G:0"],
        ["--accelerator", "A10G:1.5"],
        ["--accelerator", "Z9"],
        ["--attainment", "1.5"],
        ["--ttft-ms", "-1"],
        ["--ttft-ms", "nan"],
        ["--prefix-share", "1"],
        ["--engine-flags", "'"],
    ],
)
def test_wrong_use_is_one_line(tmp_path: Path, wrong: list[str]) -> None:
    from click.testing import CliRunner

    from melange_sky.cli.profile import profile as group
    from melange_sky.errors import InputError

    words = command("http://127.0.0.1:9", tmp_path, *wrong)[4:]
    result = CliRunner().invoke(group, words)
    assert isinstance(result.exception, InputError), result.output
    assert "\n" not in str(result.exception)


def test_an_slo_that_nothing_meets_exits_5(start_server: StartServer, tmp_path: Path) -> None:
    done = profile(start_server(ttft=0.05), tmp_path, "--ttft-ms", "10")
    assert done.returncode == 5, done.stderr
    assert "none" in done.stdout
    assert math.isclose(load_tables(tmp_path)[0].cells[0].slo.ttft_s or 0, 0.01)


def test_the_budget_ends_a_run(start_server: StartServer, tmp_path: Path) -> None:
    done = profile(start_server(ttft=0.05), tmp_path, "--output", "2,3", "--max-minutes", "0.0001")
    assert done.returncode == 0
    assert "not measured: budget spent" in done.stdout


def test_sizes_are_chosen_until_the_others_are_known(
    start_server: StartServer, tmp_path: Path
) -> None:
    """One slot of constant time: all sizes have one rate, so a few tell the rest."""
    url = start_server(ttft=0.02, itl=0.0, slots=1)
    sizes = ["--input", "20,24,28,32", "--output", "2,3"]
    words = [*sizes, "--error-bound", "0.6", "--format", "json"]
    done = profile(url, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert 4 <= len(said["cells"]) < 8
    assert len(said["cells"]) + len(said["inferred"]) == 8
    assert said["unmeasured"] == []
    assert said["expected_error"] <= 0.6
    rates = [cell["max_rate_rps"] for cell in said["cells"]]
    for row in said["inferred"]:
        assert row["origin"] == "interpolated"
        assert min(rates) / 3 < row["max_rate_rps"] < 3 * max(rates)
    again = json.loads(profile(url, tmp_path, *words).stdout)
    assert again["cells"] == said["cells"]  # the table answers: nothing is sent
    assert again["inferred"] == said["inferred"]


def test_what_the_measured_sizes_do_not_tell_is_reported_unmeasured(tmp_path: Path) -> None:
    """Four sizes near each other meet the bound; of a far one, and beyond a miss, they say nothing."""
    near = [(100, 100), (100, 110), (110, 100), (110, 110)]
    limits = SLO(ttft_s=1.0)
    cells = [kept_cell(size, limits, 2.0) for size in near] + [kept_cell((200, 10), limits, None)]
    sizes = (*near, (200, 10), (105, 105), (205, 105), (9000, 9000))
    made = Provenance(model="known", accelerator="A10G", accelerator_count=1)
    write_table(ProfileTable(provenance=made, cells=tuple(cells)), table_path(tmp_path, made))
    demand = SizeDemand(
        sizes=sizes, weights=(1.0,) * 7 + (0.01,), guesses_rps=(1.0,) * 8, error_bound=0.5
    )
    dead = Endpoint(url="http://127.0.0.1:9", model="known", timeout_s=1)
    report = measure_grid(dead, sizes, made, tmp_path, GridOptions(slo=limits, demand=demand))
    assert report.measured == ()
    assert set(report.inferred) == {(105, 105)}
    assert set(report.unmeasured) == {(205, 105), (9000, 9000)}


def test_traces_of_one_name_and_one_called_poisson_have_tables_of_their_own(
    start_server: StartServer, tmp_path: Path
) -> None:
    url, out = start_server(), tmp_path / "out"
    for folder, step in (("a", 1), ("b", 2)):
        trace = tmp_path / folder / "poisson"
        trace.parent.mkdir()
        rows = [f"2023-11-16 18:00:{s:02d}.000000,20,2" for s in range(0, 40, step)]
        trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
        done = profile(url, out, "--output", "1", "--arrivals", str(trace))
        assert done.returncode == 0, done.stderr
    names = {table.provenance.arrivals for table in load_tables(out)}
    assert len(names) == 2 and "poisson" not in names


def kept_cell(size: tuple[int, int], slo: SLO, rate: float | None) -> MeasuredCell:
    return MeasuredCell(
        input_tokens=size[0],
        output_tokens=size[1],
        slo=slo,
        max_rate_rps=rate,
        reason="",
        resolved=True,
        low_rps=rate and rate * 0.98,
        high_rps=rate and rate * 1.02,
        knee_rps=None,
        seconds=1.0,
        measured_at="2026-11-20T00:00:00Z",
    )


def test_a_size_that_this_client_is_too_late_for_ends_no_grid(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Where the client stalls at one size, the others are measured and that one is named."""
    few = SearchOptions(
        min_requests=8,
        confirm_requests=8,
        max_requests=8,
        max_probes=3,
        ceiling_rps=10.0,
        turnovers=1.0,
    )
    options = GridOptions(slo=SLO(ttft_s=5.0), search=few, late_s=0.3)
    endpoint = Endpoint(url=start_server(ttft=0.3), model="known", timeout_s=20)
    made = Provenance(model="known", accelerator="A10G", accelerator_count=1)

    def stall_at(noisy: set[tuple[int, int]]) -> Progress:
        return Progress(on_cell=lambda size, *_: stall(0.5 if size in noisy else 0.0))

    sizes = [(20, 2), (30, 2), (40, 2)]
    try:
        with pytest.raises(
            SourceUnavailableError, match=r"input 20, output 2: .*less busy machine"
        ):
            measure_grid(endpoint, sizes[:1], made, tmp_path, options, stall_at({(20, 2)}))
        report = measure_grid(
            endpoint, sizes, made, tmp_path, options, stall_at({(20, 2), (30, 2)})
        )
    finally:
        stall(0.0)
    assert report.measured == ((40, 2),)
    assert list(report.unmeasured) == [(20, 2), (30, 2)]
    assert all("the load client was itself late" in why for why in report.unmeasured.values())
    measured = Measurement(report=report, slo=options.slo, sizes=tuple(sizes))
    assert measured_text(measured).count("not measured: probes at") == 2
    assert [c.input_tokens for c in load_tables(tmp_path)[0].cells] == [40]


def stall(seconds: float) -> None:
    """Hold this process still for two thirds of its time, so long at once; 0 ends it."""
    signal.signal(signal.SIGALRM, lambda *_: time.sleep(seconds))
    signal.setitimer(signal.ITIMER_REAL, seconds and 0.01, 1.5 * seconds)


def test_arrivals_of_a_trace_are_kept_apart(start_server: StartServer, tmp_path: Path) -> None:
    trace = tmp_path / "bursts.csv"
    rows = [f"2023-11-16 18:00:{s:02d}.{k}00000,20,2" for s in range(0, 40, 4) for k in range(3)]
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    done = profile(start_server(), out, "--output", "1", "--arrivals", str(trace))
    assert done.returncode == 0, done.stderr
    (table,) = load_tables(out)
    digest = hashlib.sha256(trace.read_bytes()).hexdigest()[:12]
    assert table.provenance.arrivals == f"bursts.csv sha256:{digest}"
    absent = profile("http://127.0.0.1:9", out, "--arrivals", str(tmp_path / "none.csv"))
    assert (absent.returncode, "none.csv" in absent.stderr) == (2, True)
