"""Several workers on one port, as processes: all serve, their numbers add up, none is missed for long."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.gateway.metrics import Metrics
from melange_sky.gateway.settings import Settings
from melange_sky.gateway.siblings import Gathered, health_of_all
from melange_sky.planfile import dump_plan
from tests.gateway.bed import split_plan
from tests.gateway.test_command import KEY, Running, plan_file, replica, url

__all__ = ["plan_file"]
WORKERS = 3


def workers_of(parent: int) -> set[int]:
    """Process ids of a process's children that still run."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            if int(rest[1]) == parent and rest[0] != "Z":
                found.add(pid)
    return found


def settled(what: Callable[[], object], within_s: float = 8.0) -> None:
    end_s = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < end_s, "did not come about"
        time.sleep(0.05)


def get(running: Running, path: str) -> str:
    request = urllib.request.Request(
        f"{running.url}{path}", headers={"Authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        text: str = response.read().decode()
        return text


def metric(running: Running, name: str, *having: str) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in get(running, "/metrics").splitlines()
        if line.startswith(name) and all(each in line for each in having)
    )


def ask_many(running: Running, count: int, words: int = 5) -> int:
    """Ask so often, by a connection each; return how many were answered."""

    def one(_: int) -> bool:
        try:
            running.ask(words=words)
        except (OSError, ConnectionError):
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return sum(pool.map(one, range(count)))


def inbound(parent: int, url: str) -> collections.Counter[int]:
    """How many clients' connections each worker holds."""
    port = int(url.rsplit(":", 1)[1])
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    held: collections.Counter[int] = collections.Counter()
    for pid in workers_of(parent):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held[pid] += str(file.readlink()).removeprefix("socket:[")[:-1] in inodes
    return held


def served_by(parent: int, url: str) -> collections.Counter[int]:
    """Open connections, more than enough for all, and count them by worker."""
    port = int(url.rsplit(":", 1)[1])
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        time.sleep(0.3)
        return inbound(parent, url)


@pytest.fixture
def own_temp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@contextlib.contextmanager
def started(plan: Path, *arguments: str, **env: str) -> Iterator[tuple[Running, Any]]:
    with replica() as a, contextlib.ExitStack() as stack:
        given = [str(plan), "--backend", f"small={url(a)}", "--workers", str(WORKERS), *arguments]
        running = Running(*given, MELANGE_SKY_API_KEY=KEY, **env)
        children = workers_of(running.process.pid)
        stack.callback(lambda: [kill(pid) for pid in (running.process.pid, *children)])
        yield running, a


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_all_take_requests_and_their_numbers_add_up_to_what_was_sent(
    plan_file: Path, tmp_path: Path, own_temp: Path
) -> None:
    observed = tmp_path / "observed.yaml"
    with started(plan_file, "--observed", str(observed)) as (running, _):
        parent = running.process.pid
        assert len(workers_of(parent)) == WORKERS
        held = served_by(parent, running.url)
        assert len(held) == WORKERS and min(held.values()) > 0, held
        (folder,) = own_temp.iterdir()
        assert folder.stat().st_mode & 0o077 == 0
        assert ask_many(running, 120, words=2000) == 120
        for _ in range(6):  # whichever is asked
            assert metric(running, "melange_gateway_answers_total", 'status="200"') == 120
            assert metric(running, "melange_gateway_requests_total") == 120
            assert metric(running, "melange_gateway_tokens_total", 'kind="prompt"') == 120 * 40
            assert metric(running, "melange_gateway_request_seconds_count") == 120
            assert metric(running, "melange_gateway_healthy_backends", 'option="small"') == 1
            assert metric(running, "melange_gateway_workers", 'which="answered"') == WORKERS
        seen = json.loads(get(running, "/health"))
        assert (seen["workers"], seen["workers_answered"]) == (WORKERS, WORKERS)
        children = workers_of(parent)
        assert running.end() == 0
        settled(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
        assert "requests: 120" in observed.read_text()
        reuse = yaml.safe_load(observed.read_text())["workload"]["reuse"]
        # One prompt is new and the same ever after: hashes of all workers are counted together.
        assert (1 - reuse["infinite_hit"]) * 120 < 2
        assert list(own_temp.iterdir()) == []
    assert "Traceback" not in running.said


def refuses_its_port_to_another(
    running: Running, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from melange_sky.cli import main

    port = running.url.rsplit(":", 1)[1]
    arguments = ["--backend", "small=http://a", "--workers", "2", "--port", port]
    with pytest.raises(SystemExit) as ended:
        main(["gateway", str(plan_file), *arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in said.splitlines()[-1]


def test_a_killed_worker_is_started_again_and_loses_only_what_was_in_its_hands(
    plan_file: Path, own_temp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with started(plan_file) as (running, a):
        parent = running.process.pid
        assert ask_many(running, 60) == 60
        assert metric(running, "melange_gateway_requests_total") == 60
        before = workers_of(parent)
        a.slow_s = 1.0
        answered: list[int] = []
        asking = threading.Thread(target=lambda: answered.append(ask_many(running, 8)))
        asking.start()
        settled(lambda: len(a.seen) >= 68)
        held = inbound(parent, running.url)
        ((victim, lost),) = held.most_common(1)
        assert held.total() == 8
        os.kill(victim, signal.SIGKILL)
        asking.join()
        a.slow_s = 0.0
        assert answered == [8 - lost]
        settled(lambda: len(workers_of(parent) - {victim}) == WORKERS)
        settled(lambda: metric(running, "melange_gateway_workers", "answered") == WORKERS)
        assert victim not in workers_of(parent)
        assert before - {victim} < workers_of(parent)
        assert ask_many(running, 60) == 60
        # What the dead one had counted is counted still.
        assert metric(running, "melange_gateway_requests_total") == 120 + answered[0]
        refuses_its_port_to_another(running, plan_file, capsys)
        assert running.end() == 0
    assert "ended (signal 9); it starts again in 0.1 s" in running.said


CREW = """
import asyncio, logging, sys
from melange_sky.gateway.workers import Crew, run_workers
logging.basicConfig()
def serve(place):
    async def main():
        place.started(1, "up")
        await asyncio.sleep(60)
    asyncio.run(main())
crew = Crew(workers=2, port=0, drain_s=0.1, observe_every_s=60, observed=None, serve=serve, hung_s=2.5)
run_workers(crew, lambda said: print(said, flush=True))
"""


def test_a_worker_whose_loop_stands_still_is_started_again() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CREW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "up\n"
            before = workers_of(parent.pid)
            victim = min(before)
            os.kill(victim, signal.SIGSTOP)
            settled(lambda: len(workers_of(parent.pid) - before) == 1, 20.0)
            assert len(workers_of(parent.pid) & before) == 1
            assert victim not in workers_of(parent.pid)
            parent.terminate()
            _, said = parent.communicate(timeout=20)
        finally:
            parent.kill()
    assert said.count("hangs: it is killed") == 1
    assert said.count("ended (signal 9); it starts again in 0.1 s") == 1


def test_ctrl_c_drains_and_leaves_nothing_behind(plan_file: Path, own_temp: Path) -> None:
    with started(plan_file) as (running, a):
        children = workers_of(running.process.pid)
        a.slow_s = 1.0
        answered: list[int] = []
        asking = threading.Thread(target=lambda: answered.append(ask_many(running, 6)))
        asking.start()
        settled(lambda: len(a.seen) == 6)
        for pid in children:  # as a terminal does: to all of the group
            os.kill(pid, signal.SIGINT)
        assert running.end(signal.SIGINT) == 0
        asking.join()
        assert answered == [6]
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        assert list(own_temp.iterdir()) == []
    assert "Traceback" not in running.said and "starts again" not in running.said


def test_asked_twice_it_ends_at_once(plan_file: Path, own_temp: Path) -> None:
    with started(plan_file) as (running, a):
        a.slow_s = 20.0
        asking = threading.Thread(target=lambda: ask_many(running, 2))
        asking.start()
        settled(lambda: len(a.seen) == 2)
        began_s = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert running.end() == 0
        assert time.monotonic() - began_s < 5
        asking.join()


def test_a_new_plan_reaches_every_worker_and_none_outlives_the_parent(
    plan_file: Path, tmp_path: Path, own_temp: Path
) -> None:
    backends = tmp_path / "backends"
    with replica() as b:
        backends.write_text(f"big={url(b)}\n")
        with started(plan_file, "--backends-file", str(backends)) as (running, a):
            assert ask_many(running, 20) == 20
            assert len(a.seen) == 20
            revision = json.loads(get(running, "/health"))["revision"]
            plan_file.write_text(dump_plan(split_plan(left=0.0)), encoding="utf-8")
            running.process.send_signal(signal.SIGHUP)

            def taken() -> bool:
                now = json.loads(get(running, "/health"))["revision"]
                return now is not None and now != revision

            settled(taken)
            assert ask_many(running, 40) == 40
            assert len(a.seen) == 20
            assert len(b.seen) == 40  # type: ignore[attr-defined]
            children = workers_of(running.process.pid)
            running.end(signal.SIGKILL)  # workers do not outlive their parent
            settled(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


def test_elsewhere_than_on_linux_it_is_one_line(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from melange_sky.cli import main

    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(SystemExit) as ended:
        main(["gateway", str(plan_file), "--backend", "small=http://a", "--workers", "2"])
    assert ended.value.code == 2
    assert "--workers: more than one worker needs Linux" in capsys.readouterr().err


def test_numbers_of_workers_are_taken_together_by_their_kind() -> None:
    one, two, gone = Metrics(), Metrics(), Metrics()
    for metrics, count in ((one, 2), (two, 3), (gone, 5)):
        metrics.answers.add("chat", "200", amount=count)
        metrics.in_flight.set("chat", "small", value=count)
        metrics.healthy.set("chat", "small", value=count)
        for _ in range(count):
            metrics.ttft_s.observe(0.1 * count, "chat", "small")
    whole = Metrics()
    for metrics in (one, two):
        whole.merge(json.loads(json.dumps(metrics.state())))
    whole.merge(json.loads(json.dumps(gone.state())), past=True)
    assert whole.answers.values == {("chat", "200"): 10}
    assert whole.in_flight.values == {("chat", "small"): 5}
    assert whole.healthy.values == {("chat", "small"): 2}
    numbers = whole.ttft_s.values["chat", "small"]
    assert sum(numbers[:-1]) == 10
    assert numbers[-1] == pytest.approx(0.1 * (4 + 9 + 25))


def test_a_rollout_is_confirmed_only_by_all() -> None:
    def told(revision: str, leaving: int) -> dict[str, Any]:
        health = {"revision": revision, "unanswered_options": leaving, "leaving_requests": leaving}
        return {"health": {"status": "ok", **health}}

    agreed = health_of_all(Gathered(live=[told("a", 1), told("a", 2)], past=[]), 2)
    assert (agreed["revision"], agreed["unanswered_options"]) == ("a", 2)
    assert agreed["leaving_requests"] == 3
    differ = health_of_all(Gathered(live=[told("a", 0), told("b", 0)], past=[]), 2)
    assert differ["revision"] is None
    silent = health_of_all(Gathered(live=[told("a", 0)], past=[]), 2)
    assert silent["revision"] is None and silent["leaving_requests"] is None


def test_limits_of_the_whole_are_divided() -> None:
    whole = Settings(gateways=2, queue_length=10)
    assert whole.for_one_of(1) is whole
    one = whole.for_one_of(4)
    assert (one.gateways, one.queue_length, one.retries_least) == (8, 3, 8)
    assert one.held_bytes == whole.held_bytes // 4
    assert Settings(queue_length=0).for_one_of(4).queue_length == 0
