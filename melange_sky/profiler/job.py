"""What runs on the rented machine: start the server, wait, measure, send results, stop the server.

    python -m melange_sky.profiler.job     with MELANGE_TASK (JSON) and MELANGE_SERVE (shell) set

Every finished cell leaves at once as framed lines on stdout. The table lies in `folder` of the task,
on a mounted bucket where one is given, so that a restarted job goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from melange_sky import settings
from melange_sky.capacity_search import REAL_SEARCH, SizeDemand
from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.profiler.endpoint import Endpoint, ServerPages
from melange_sky.profiler.grid import (
    GridOptions,
    GridReport,
    Progress,
    measure_grid,
    table_path,
)
from melange_sky.profiler.log_transport import frame
from melange_sky.profiler.prompts import PromptStyle
from melange_sky.profiler.target import ServerFacts, check_endpoint
from melange_sky.profiletable import (
    MeasuredCell,
    ProfileTable,
    Provenance,
    read_table,
    table_text,
)
from melange_sky.slo import SLO

TASK_VARIABLE = "MELANGE_TASK"
SERVE_VARIABLE = "MELANGE_SERVE"


def main() -> int:
    """Run the job; return its exit code."""
    began = time.monotonic()
    try:
        task = json.loads(os.environ[TASK_VARIABLE])
        _run(task, os.environ[SERVE_VARIABLE], began)
    except MelangeError as error:
        _say(f"MELANGE-ERROR {error}")
        return error.exit_code
    _say("MELANGE-DONE")
    return 0


def _run(task: dict[str, Any], serve: str, began: float) -> None:
    # The key only guards this one server from its network; the clients are on the same machine.
    endpoint = Endpoint(
        url=f"http://127.0.0.1:{task['port']}",
        model=task["model"],
        timeout_s=task["timeout_s"],
        api_key=settings.secret(task["key_variable"]),
        pages=ServerPages(**task["pages"]),
    )
    with _server(serve, endpoint, task["ready_s"]):
        facts = check_endpoint(endpoint, PromptStyle())
        report = _measure(task, endpoint, _provenance(task, facts), began)
    if report.unmeasured:
        counts = Counter(report.unmeasured.values()).items()
        left = "; ".join(f"{count} sizes not measured: {why}" for why, count in counts)
        _say(f"MELANGE-LEFT {left}")


def _provenance(task: dict[str, Any], facts: ServerFacts) -> Provenance:
    """Return what the plan knows of the measurement, with what server and machine add."""
    known = {**task["provenance"], "engine_flags": tuple(task["provenance"]["engine_flags"])}
    gpu_name, gpu_driver = gpu_facts()
    return Provenance(
        **known, engine_version=facts.version, gpu_name=gpu_name, gpu_driver=gpu_driver
    )


def _measure(
    task: dict[str, Any], endpoint: Endpoint, made: Provenance, began: float
) -> GridReport:
    """Measure what the plan asks for, sending each cell as soon as it is done."""
    folder = Path(task["folder"]).expanduser()
    budget_s = task["budget_s"]
    if budget_s is not None:
        budget_s = max(1.0, budget_s - (time.monotonic() - began))
    demand = demand_from(task)
    options = GridOptions(
        slo=SLO(**task["slo"]),
        demand=demand,
        search=replace(REAL_SEARCH, **task.get("search", {})),
        budget_s=budget_s,
        late_s=task.get("late_s", 0.025),
    )
    _send_kept(table_path(folder, made))
    progress = Progress(
        on_cell=lambda size, done, total: _say(
            f"MELANGE-PROGRESS {done}/{total} input {size[0]} output {size[1]}"
        ),
        on_done=lambda cell: send(made, (cell,)),
    )
    return measure_grid(endpoint, demand.sizes, made, folder, options, progress)


def demand_from(task: dict[str, Any]) -> SizeDemand:
    """Return what the plan asks for: sizes with weights and estimates, and the error bound."""
    demand = task["demand"]
    return SizeDemand(
        sizes=tuple((int(i), int(o)) for i, o in demand["sizes"]),
        weights=tuple(map(float, demand["weights"])),
        guesses_rps=tuple(map(float, demand["guesses_rps"])),
        error_bound=float(demand["error_bound"]),
    )


def _send_kept(path: Path) -> None:
    """Send what an earlier life of this job measured: its log may be gone."""
    if path.exists():
        table = read_table(path)
        send(table.provenance, table.cells)


def send(made: Provenance, cells: tuple[MeasuredCell, ...]) -> None:
    """Write cells to stdout as framed lines, one content each."""
    for cell in cells:
        for line in frame(table_text(ProfileTable(provenance=made, cells=(cell,))).encode()):
            _say(line)


@contextlib.contextmanager
def _server(serve: str, endpoint: Endpoint, ready_s: float) -> Iterator[None]:
    process = subprocess.Popen(["bash", "-c", serve], start_new_session=True)
    try:
        _wait_ready(process, endpoint, ready_s)
        yield
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
                break


def _wait_ready(process: subprocess.Popen[bytes], endpoint: Endpoint, ready_s: float) -> None:
    deadline = time.monotonic() + ready_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SourceUnavailableError(
                f"the server ended with code {process.returncode} before it was ready; its log stands above"
            )
        if _healthy(endpoint):
            return
        time.sleep(1.0)
    raise SourceUnavailableError(f"the server was not ready within {ready_s:g} s")


def _healthy(endpoint: Endpoint) -> bool:
    try:
        with urllib.request.urlopen(
            endpoint.base + endpoint.pages.health_path, timeout=5
        ) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def gpu_facts() -> tuple[str | None, str | None]:
    """Return GPU name and driver as the machine reports them, None where it has no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None, None
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    name, comma, driver = (done.stdout.splitlines() or [""])[0].partition(",")
    return (name.strip()[:80], driver.strip()[:40]) if comma else (None, None)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyError as missing:
        sys.exit(str(InputError(f"the job lacks {missing}")))
