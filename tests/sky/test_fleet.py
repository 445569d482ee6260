"""The whole way on a real SkyPilot with simulated hardware: plan, bring up, route, lose, replan, down.

Nothing is edited between `plan` and SkyPilot. One story, told in order, because each step needs the
state that the one before left.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.errors import InfeasibleError
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery
from tests.sky.bed import Bed
from tests.sky.client import (
    PRICES,
    READY_LIMIT_S,
    Story,
    gateway,
    running,
    wait_for,
    write_offers,
)
from tests.sky.fleets_page import check_fleets_page
from tests.sky.moving import Streaming, apply_until, folder_words, single_option

pytestmark = [pytest.mark.sky, pytest.mark.timeout(1800)]

LIMITS = {"A10G": 3, "A100-80GB": 2}
SHORT, LONG = (120, 40), (2500, 60)  # input and output tokens of the two sizes that are sent


@pytest.fixture
def desk(sky_bed: Bed) -> Path:
    """The user's working folder: inside a git repository, as fleets kept in git are."""
    folder = sky_bed.home / "desk"
    folder.mkdir()
    git(sky_bed, folder, "init", "--quiet")
    return folder


def git(bed: Bed, folder: Path, *words: str) -> None:
    who = ("-c", "user.email=a@example.org", "-c", "user.name=A")
    done = bed.run("git", "-C", str(folder), *who, *words)
    assert done.returncode == 0, done.stderr


def commit(bed: Bed, folder: Path, message: str) -> None:
    git(bed, folder, "add", "--all")
    git(bed, folder, "commit", "--quiet", "--allow-empty", "-m", message)


def write_inputs(
    folder: Path, rate_rps: float, short_share: float, accelerators: Sequence[str] = tuple(PRICES)
) -> None:
    write_offers(folder)
    spec = {
        "name": "bed",
        "model": "Qwen/Qwen2.5-7B-Instruct",
        "slo": {"tpot_ms": 60, "ttft_ms": 2000},
        "workload": {
            "rate_rps": rate_rps,
            "histogram": {
                "input_edges": [0, 250, 4000],
                "output_edges": [0, 100],
                "weights": [[short_share], [round(1 - short_share, 3)]],
            },
        },
        "resources": {"accelerators": list(accelerators), "limits": LIMITS},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))


def plan(bed: Bed, folder: Path) -> dict[str, Any]:
    """Plan the folder's spec into `folder`/fleet by the command line."""
    done = bed.run(
        "melange-sky",
        "plan",
        str(folder / "spec.yaml"),
        "--offline",
        "--offers",
        str(folder / "offers.csv"),
        "-o",
        str(folder / "fleet"),
        "--format",
        "json",
    )
    assert done.returncode == 0, done.stderr
    planned: dict[str, Any] = json.loads(done.stdout)
    return planned


def forecast(folder: Path) -> dict[str, int]:
    """Return the replicas that a plan of the folder's spec would have; empty where none fits the bed."""
    return _forecast_of((folder / "spec.yaml").read_text(), folder)


@cache
def _forecast_of(_spec: str, folder: Path) -> dict[str, int]:
    """As `forecast`, once for each spec: the searches of a story try the same traffic."""
    prices = OfferQuery(offline=True, offers_csv=folder / "offers.csv")
    try:
        planned = plan_spec(folder / "spec.yaml", PlanRequest(prices=prices, sensitivity=False))
    except InfeasibleError:
        return {}
    (model,) = planned.models
    return {a.candidate.option.name: a.instances for a in model.allocations}


def replicas(planned: dict[str, Any]) -> dict[str, int]:
    return {row["option"]: row["replicas"] for row in planned["allocations"]}


RATES = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)
SHARES = (0.97, 0.95, 0.92, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)


def plan_where(
    bed: Bed,
    folder: Path,
    fits: Callable[[dict[str, int]], bool],
    accelerators: Sequence[str] = tuple(PRICES),
) -> dict[str, Any]:
    """Plan the first traffic whose replicas fit: found by trial.

    Capacities are estimates that move from release to release; no traffic is right for ever.
    """
    tried = []
    for rate, share in itertools.product(RATES, SHARES):
        write_inputs(folder, rate, share, accelerators)
        tried.append(forecast(folder))
        if fits(tried[-1]):
            return plan(bed, folder)
    raise AssertionError(f"no traffic gives such a plan: {tried}")


def first_plan(bed: Bed, folder: Path) -> dict[str, Any]:
    """Return a plan with one replica of each type."""
    return plan_where(bed, folder, lambda counts: sorted(counts.values()) == [1, 1])


def grown_plan(bed: Bed, folder: Path, before: dict[str, int]) -> dict[str, Any]:
    """Return a plan for other traffic in which one option grows by one and the other stays."""

    def grows(counts: dict[str, int]) -> bool:
        more = sorted(count - before.get(name, 99) for name, count in counts.items())
        return counts.keys() == before.keys() and more == [0, 1]

    return plan_where(bed, folder, grows)


def status(bed: Bed, folder: Path) -> dict[str, Any]:
    done = bed.run("melange-sky", "status", str(folder / "fleet"), "--format", "json")
    assert done.returncode == 0, done.stderr
    return {row["option"]: row for row in json.loads(done.stdout)["services"]}


def ask(url: str, size: tuple[int, int], timeout_s: float = 60) -> tuple[str, str, int]:
    """Send one completion; return the node that answered, since when it runs, and its tokens."""
    body = {"model": "Qwen/Qwen2.5-7B-Instruct", "prompt": "word " * size[0], "max_tokens": size[1]}
    request = urllib.request.Request(
        f"{url}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        told = error.read(500).decode(errors="replace")
        raise OSError(f"{url} answered {error.code}: {told}") from error
    node, started = answer["system_fingerprint"].split()
    return node, started, answer["usage"]["completion_tokens"]


def accelerator_of(node: str) -> str:
    return "A10G" if "a10g" in node else "A100-80GB"


def check_shares(url: str, planned: dict[str, Any]) -> None:
    """Send both sizes in the plan's proportion; each type gets its planned share (χ², p ≥ 0.001)."""
    for i, size in enumerate((SHORT, LONG)):
        seen = Counter(accelerator_of(ask(url, size)[0]) for _ in range(120))
        expected = {
            row["accelerator"].partition(":")[0]: 120 * row["shares"][i][0]
            for row in planned["allocations"]
        }
        sent = {name: count for name, count in expected.items() if count > 0}
        assert set(seen) <= set(sent), (size, seen, expected)
        statistic = sum((seen[name] - count) ** 2 / count for name, count in sent.items())
        assert statistic < 10.83, (size, seen, expected)  # χ² of one degree of freedom


def test_fleet_from_plan_to_down(sky_bed: Bed, desk: Path) -> None:
    story = Story("fleet")
    first = first_plan(sky_bed, desk)
    commit(sky_bed, desk, "first plan")
    story.note(f"planned {replicas(first)} at ${first['cost_usd_per_hour']:.2f}/h")
    start_one_by_hand(sky_bed, desk, first)
    story.note("sky serve up returned for one service")
    apply(sky_bed, desk, first)
    story.note("applied, all ready")
    check_fleets_page(first)
    story.note("the dashboard's page shows the plan and what runs")
    with gateway(sky_bed, desk / "fleet", "--backends-file", str(desk / "backends")) as url:
        check_shares(url, first)
    story.note("shares as planned")
    second = replan(sky_bed, desk, first)
    story.note(f"replanned to {replicas(second)}: no replica restarted")
    with gateway(sky_bed, desk / "fleet", "--backends-file", str(desk / "backends")) as url:
        failed, sent = lose_a_node(sky_bed, desk, url)
    story.note(f"lost node replaced; {failed} of {sent} requests failed before the loss was seen")
    streamed = move_to_another_option(sky_bed, desk)
    story.note(f"moved to another option, killed at every step: 0 of {streamed} streams failed")
    take_down(sky_bed, desk)
    story.note("down, nothing left")


def start_one_by_hand(bed: Bed, desk: Path, planned: dict[str, Any]) -> None:
    """Run the command that a service file shows, in its folder; SkyPilot's cost is the plan's."""
    path = min((desk / "fleet").glob("*.sky.yaml"))
    command = next(line for line in path.read_text().splitlines() if "sky serve up" in line)
    words = command.partition("Start:")[2].split()
    up = subprocess.run(
        [*words, "--yes"],
        env=bed.env,
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert up.returncode == 0, up.stdout + up.stderr
    row = next(r for r in planned["allocations"] if path.name.startswith(f"bed-{r['option']}."))
    table = next(line for line in up.stdout.splitlines() if row["accelerator"] in line)
    assert f"{row['price_usd_per_hour']:.2f}" in table.split()


def apply(bed: Bed, desk: Path, planned: dict[str, Any]) -> None:
    """Apply the folder; afterwards as many replicas are ready as were planned, and no more."""
    applied = bed.run(
        "melange-sky",
        "apply",
        str(desk / "fleet"),
        "--yes",
        "--backends",
        str(desk / "backends"),
        timeout_s=1500,
    )
    assert applied.returncode == 0, applied.stdout + applied.stderr
    live = status(bed, desk)
    assert {option: row["ready"] for option, row in live.items()} == replicas(planned)


def replan(bed: Bed, desk: Path, first: dict[str, Any]) -> dict[str, Any]:
    """Apply a plan for other traffic, committed in between: running replicas stay as they are."""
    jobs = running(bed, "bed-").keys()
    since = {option: ask(row["endpoint"], SHORT)[:2] for option, row in status(bed, desk).items()}
    second = grown_plan(bed, desk, replicas(first))
    commit(bed, desk, "second plan")
    dry = bed.run("melange-sky", "apply", str(desk / "fleet"), "--dry-run")
    assert dry.returncode == 0 and "replace" not in dry.stdout, dry.stdout + dry.stderr
    apply(bed, desk, second)
    grown = running(bed, "bed-").keys()
    assert jobs < grown and len(grown) == len(jobs) + 1
    for option, row in status(bed, desk).items():
        seen = {ask(row["endpoint"], SHORT)[:2] for _ in range(12)}
        assert since[option] in seen, f"{option}: its first replica was restarted"
    return second


def lose_a_node(bed: Bed, desk: Path, url: str) -> tuple[int, int]:
    """Cancel a replica's node under load, of the option that has two."""
    option, row = next((o, r) for o, r in status(bed, desk).items() if r["ready"] == 2)
    lost = row["replicas"][0]
    node = next(n.name for n in bed.nodes if bed.address(n) in lost["endpoint"])
    job = bed.run("squeue", "--noheader", "-o", "%i", "-w", node).stdout.split()
    assert len(job) == 1
    assert bed.run("scancel", *job).returncode == 0
    return recover(bed, desk, url, option, lost["id"])


STEPS = ("→ 2 replicas", "of 2 ready", "serves the plan", "stopping")


def move_to_another_option(bed: Bed, desk: Path) -> int:
    """Move from two options to one while 20 clients stream; `apply` is killed after each step."""
    here = str(desk / "fleet")
    routes = bed.run("melange-sky", "status", here, "--routes", str(desk / "routes.json"))
    assert routes.returncode == 0, routes.stderr
    patient = ("--queue", "1000", "--queue-wait", "60")
    with gateway(bed, desk / "routes.json", *patient) as url:
        clients = Streaming(url, "Qwen/Qwen2.5-7B-Instruct", clients=20)
        try:
            only = "A100-80GB"
            plan_where(bed, desk, lambda counts: single_option(counts, "a100", 2), [only])
            told = [apply_until(bed, folder_words(desk, url), step) for step in STEPS]
            told.append(apply_until(bed, folder_words(desk, url), None))
            time.sleep(5)
        finally:
            clients.end()
    assert clients.failed == [], (clients.done, clients.failed[:5], told)
    live = status(bed, desk)
    assert [row["ready"] for row in live.values()] == [2]
    assert clients.done > 100
    return clients.done


def take_down(bed: Bed, desk: Path) -> None:
    done = bed.run("melange-sky", "down", str(desk / "fleet"), "--yes", timeout_s=900)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: not running(bed, "bed-"), "emptying the nodes", 300)
    listed = bed.run("python", "-c", _LIST_SERVICES)
    names = json.loads(listed.stdout.splitlines()[-1])
    assert [name for name in names if name.startswith("bed-")] == [], listed.stderr


_LIST_SERVICES = (
    "import sky, json; print(json.dumps([s['name'] for s in sky.get(sky.serve.status(None))]))"
)


def recover(bed: Bed, folder: Path, url: str, option: str, lost_id: int) -> tuple[int, int]:
    """Keep asking until SkyServe has replaced the replica; none may fail once the loss was seen."""
    detected = False
    failures = sent = 0
    next_look = 0.0
    until = time.monotonic() + READY_LIMIT_S
    while True:
        assert time.monotonic() < until, "the lost replica was not replaced"
        if time.monotonic() > next_look:
            row = status(bed, folder)[option]
            known = {r["id"]: r["status"] for r in row["replicas"]}
            if not detected and known.get(lost_id) != "READY":
                detected = True
                # The load balancer hears of it at its next sync: every 20 s, and then it works.
                time.sleep(40)
            if detected and row["ready"] == row["planned"]:
                return failures, sent
            next_look = time.monotonic() + 10
        sent += 1
        try:
            ask(url, SHORT)
        except OSError as error:
            assert not detected, f"a request failed after the loss was seen: {error}"
            failures += 1
        time.sleep(0.2)
