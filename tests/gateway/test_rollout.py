"""A plan's mix moves to other options under load: no request fails, wherever the rollout ends and begins again.

The gateway and `apply` are real, the replicas are servers whose stop cuts what still runs there; only
SkyServe is a stand-in. `tests/sky` does the same on a real one.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from melange_sky.errors import InputError, MelangeError
from melange_sky.planfile import load_plan
from melange_sky.planner import apply as applying
from melange_sky.planner import handover as handing
from melange_sky.planner.apply import Deployment, wanted_services
from melange_sky.planner.handover import Handover
from melange_sky.planner.plan_files import write_plan
from melange_sky.planner.routes import read_served
from melange_sky.plans import Allocation, Plan
from melange_sky.skyserve import LiveReplica, LiveService, Wanted
from tests.factories import make_capacity, make_offer, make_option, make_plan, make_workload
from tests.gateway.bed import MODEL
from tests.gateway.replica import Replica
from tests.gateway.test_command import Running

CLIENTS = 20


def plan_of(**instances: int) -> Plan:
    """A plan in which the named options share the traffic evenly."""
    offers = {name: make_offer(instance_type=name) for name in ("small", "big", "other")}
    capacities = {
        name: make_capacity([[500.0]], make_option(name, offer=offer))
        for name, offer in offers.items()
    }
    share = 1 / len(instances)
    return make_plan(
        workload=make_workload([[20.0]]),
        candidates=tuple(capacities.values()),
        allocations=tuple(
            Allocation(
                candidate=capacities[name],
                instances=count,
                load_fraction=0.1,
                rate_rps=20 * share,
                shares=((share,),),
            )
            for name, count in instances.items()
        ),
    )


class Serve:
    """SkyServe's part: a service is ready some time after it was started, and ends at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.live: dict[str, LiveService] = {}
        self._replicas: dict[str, Replica] = {}
        self._ready_at: dict[str, float] = {}

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def services(self) -> tuple[LiveService, ...]:
        return tuple(self._now(service) for service in self.live.values())

    def _now(self, service: LiveService) -> LiveService:
        ready = time.monotonic() > self._ready_at[service.name]
        replicas = tuple(
            LiveReplica(id=n, status="READY", version=1, endpoint=None, launched_at_s=1)
            for n in range(service.target if ready else 0)
        )
        return dataclasses.replace(service, replicas=replicas)

    def users(self) -> frozenset[str]:
        return frozenset({"me"})

    def answers(self, service: LiveService) -> bool:
        return True

    def normal(self, wanted: Wanted, live: LiveService | None) -> dict[str, Any]:
        document = copy.deepcopy(wanted.document)
        count = document["service"].pop("replicas")
        document["service"]["replica_policy"] = {"min_replicas": count}
        return document

    def start(self, wanted: Wanted) -> None:
        replica = Replica(wanted.option, itl_s=0.05)
        self._run(replica.start())
        self._replicas[wanted.name] = replica
        self._ready_at[wanted.name] = time.monotonic() + 0.3
        self.live[wanted.name] = LiveService(
            name=wanted.name,
            status="READY",
            version=1,
            endpoint=replica.url,
            replicas=(),
            document=self.normal(wanted, None),
        )

    def update(self, wanted: Wanted, live: LiveService) -> None:
        self._ready_at[wanted.name] = time.monotonic() + 0.3
        self.live[wanted.name] = dataclasses.replace(live, document=self.normal(wanted, live))

    def stop(self, name: str) -> None:
        self._run(self._replicas.pop(name).stop())
        del self.live[name]

    def close(self) -> None:
        for name in list(self.live):
            self.stop(name)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    quick = SimpleNamespace(monotonic=time.monotonic, sleep=lambda s: time.sleep(min(s, 0.1)))
    monkeypatch.setattr(applying, "time", quick)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = Serve(loop)
    yield server
    server.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def deployment(folder: Path, serve: Serve) -> Deployment:
    planned = load_plan(folder)
    return Deployment(
        planned=planned,
        plan_file=folder / "plan.json",
        wanted=wanted_services(planned, folder),
        server=serve,
    )


class Clients:
    """Stream one completion after another; `failed` says what was wrong with those that did not end well."""

    def __init__(self, url: str) -> None:
        self.failed: list[str] = []
        self.served: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url,)) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str) -> None:
        body = {"model": MODEL, "prompt": "word " * 10, "max_tokens": 12, "stream": True}
        while not self._stop.is_set():
            request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
            try:
                with urllib.request.urlopen(request, timeout=20) as response:
                    text = response.read().decode()
            except OSError as error:
                self.failed.append(repr(error))
                continue
            if text.count('"served_by"') != 12 or not text.endswith("data: [DONE]\n\n"):
                self.failed.append(text[-200:])
            self.served.append(text.partition('"served_by": "')[2].partition('"')[0])

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class CrashError(BaseException):
    """The process ends here."""


def apply_in_pieces(folder: Path, serve: Serve, handover: Handover) -> list[str]:
    """Apply, ending at the first step that was not reached before, until nothing ends it any more."""
    steps: list[str] = []

    def report(text: str) -> None:
        if text not in steps:
            steps.append(text)
            raise CrashError

    for _ in range(40):
        here = deployment(folder, serve)
        try:
            here.apply(here.changes(), report, handover)
        except CrashError:
            continue
        return steps
    raise AssertionError(steps)


def test_a_mix_moves_to_other_options_and_ends_and_resumes_at_every_step(
    serve: Serve, tmp_path: Path
) -> None:
    folder, routes = tmp_path / "plan", tmp_path / "plan" / "routes.json"
    write_plan(plan_of(small=1, big=2), folder)
    first = deployment(folder, serve)
    first.apply(first.changes(), None, Handover(routes=routes))
    running = Running(str(routes))
    handover = Handover(routes=routes, gateways=(running.url,))
    clients = Clients(running.url)
    try:
        time.sleep(1)
        write_plan(plan_of(other=1, big=1), folder)
        time.sleep(2.5)  # the gateway looks for changes meanwhile, and finds none
        assert set(clients.served) == {"small", "big"}
        steps = apply_in_pieces(folder, serve, handover)
        clients.served.clear()
        time.sleep(1.5)
    finally:
        clients.end()
        running.end()
    assert clients.failed == []
    assert set(clients.served) == {"other", "big"}
    assert sorted(serve.live) == ["chat-big", "chat-other"]
    told = " | ".join(steps)
    order = ("chat-other: starting 1", "serves the plan", "chat-big: 2 → 1", "chat-small: stopping")
    places = [told.find(step) for step in order]
    assert places == sorted(places) and -1 not in places, told
    assert "Traceback" not in running.said


def test_nothing_stops_where_the_gateway_does_not_take_the_plan(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing, "TOLD_WITHIN_S", 0.5)
    folder, routes = tmp_path / "plan", tmp_path / "routes.json"
    write_plan(plan_of(small=1), folder)
    first = deployment(folder, serve)
    first.apply(first.changes(), None, Handover(routes=routes))
    running = Running(str(routes))
    write_plan(plan_of(other=1), folder)
    try:
        for url, why in (
            (running.url, "serves another plan"),
            ("http://127.0.0.1:9", "not answer"),
        ):
            handover = Handover(routes=tmp_path / "elsewhere.json", gateways=(url,))
            here = deployment(folder, serve)
            with pytest.raises(MelangeError, match=f"{why}.*nothing was shrunk or stopped"):
                here.apply(here.changes(), None, handover)
            assert sorted(serve.live) == ["chat-other", "chat-small"]
    finally:
        running.end()


def test_a_plan_whose_replicas_do_not_answer_is_not_taken(serve: Serve, tmp_path: Path) -> None:
    """Until they do: then it is taken without another word."""
    folder, routes = tmp_path / "plan", tmp_path / "routes.json"
    write_plan(plan_of(small=1), folder)
    first = deployment(folder, serve)
    first.apply(first.changes(), None, Handover(routes=routes))
    running = Running(str(routes))
    try:
        write_plan(plan_of(other=1), folder)
        handover = Handover(routes=routes)
        handover.write(folder / "plan.json", {"chat": {}})
        time.sleep(5)
        assert "served_by" in running.ask()
        serve.start(deployment(folder, serve).wanted[0])
        address = serve.live["chat-other"].endpoint
        handover.write(folder / "plan.json", {"chat": {"other": [f"{address}*1"]}})
        until = time.monotonic() + 15
        while running.ask()["served_by"] != "other":
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        running.end()
    assert running.said.count("no replica answers yet for other of chat") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"routes_format": 2}', "routes_format must be 1"),
        ('{"routes_format": 1}', "plan: is not a plan"),
        ('{"routes_format": 1, "plan": PLAN}', "backends: must be lists"),
        ('{"routes_format": 1, "plan": PLAN, "backends": {"a": [1]}}', "backends: must be lists"),
    ],
)
def test_a_broken_routes_file_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    write_plan(plan_of(small=1), tmp_path / "plan")
    file = tmp_path / "routes.json"
    file.write_text(text.replace("PLAN", (tmp_path / "plan" / "plan.json").read_text()))
    with pytest.raises(InputError, match=told) as refused:
        read_served(file)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("url", ["gateway", "ftp://x", "http://", "http://x/?key=1"])
def test_a_gateway_is_named_by_its_url(url: str) -> None:
    with pytest.raises(InputError, match="--gateway"):
        Handover(gateways=(url,))
