"""What gateways count beside what was planned: loads in the plan's own sense, unknown kept apart from none."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from melange_sky.gateway.metrics import Metrics, bucket_labels
from melange_sky.planner.watching.sources.fetching import Page
from melange_sky.plans import Plan
from melange_sky.skyplugin.fleets import by_name, fleet_document
from melange_sky.skyplugin.observed import FIRST_LOOK, Gateways
from melange_sky.skyplugin.parameters import read_parameters
from melange_sky.skyplugin.plan_folders import FoundPlan
from melange_sky.slo import SLO
from tests.factories import make_plan
from tests.gateway.bed import KEY, bed, run, split_plan, together
from tests.gateway.replica import Replica

ID = "0123456789ab"
URL = "http://10.0.0.2:8000"


class Gateway:
    """A gateway's own metrics, told as its page; the test moves them and the clock."""

    def __init__(self, plan: Plan) -> None:
        (self.model,) = plan.models
        self.metrics, self.time_s, self.asked = Metrics(), 1_800_000_000.0, 0
        self.key: str | None = None
        for allocation in self.model.allocations:
            self.metrics.healthy.set(
                self.model.name, allocation.candidate.option.name, value=allocation.instances
            )

    def serve_as_planned(self, seconds: float, times: float = 1.0, met: float = 1.0) -> None:
        """Finish what the plan sends to every option within so many seconds."""
        inputs, outputs = bucket_labels(self.model.workload)
        for allocation in self.model.allocations:
            option = allocation.candidate.option.name
            for i, row in enumerate(allocation.shares):
                for j, share in enumerate(row):
                    count = self.model.workload.rates_rps[i][j] * share * seconds * times
                    place = (self.model.name, option, inputs[i], outputs[j])
                    self.metrics.requests.add(*place, amount=count)
                    self.metrics.slo.add(self.model.name, option, "met", amount=count * met)
                    self.metrics.slo.add(
                        self.model.name, option, "missed", amount=count * (1 - met)
                    )
        self.time_s += seconds

    def page(self, url: str, key: str | None) -> Page:
        assert url == f"{URL}/metrics"
        self.asked, self.key = self.asked + 1, key
        return Page(text=self.metrics.text().decode())


def source(gateway: Gateway, found: FoundPlan, name: str = "chat") -> Gateways:
    return Gateways(
        urls={name: (URL,)},
        found=lambda: (found,),
        get=gateway.page,
        clock=lambda: gateway.time_s,
        steady=lambda: gateway.time_s,
    )


def found(plan: Plan | None = None) -> FoundPlan:
    return FoundPlan(plan=plan or make_plan(fleet_id=ID), file=Path("/plans/chat-plan/plan.json"))


def shown(one: FoundPlan, gateways: Gateways, later_s: float = 20.0) -> dict[str, Any]:
    now = datetime.fromtimestamp(gateways.clock() + later_s, timezone.utc)
    (model,) = fleet_document(one, by_name(()), now, gateways.look())["models"]
    return dict(model)


@pytest.mark.parametrize("name", ["chat", ID])
def test_traffic_as_planned_is_the_planned_load_with_its_age(name: str) -> None:
    one = found()
    gateway = Gateway(one.plan)
    gateways = source(gateway, one, name)
    first = shown(one, gateways)
    assert first["observed"]["told"] == [FIRST_LOOK] and first["observed"]["rate_rps"] is None
    assert {row["observed_load"] for row in first["options"]} == {None}
    gateway.serve_as_planned(60, met=0.97)
    model = shown(one, gateways)
    seen = model["observed"]
    assert seen["rate_rps"] == pytest.approx(model["planned_rps"])
    assert (seen["over_s"], seen["age_s"]) == (60, pytest.approx(20))
    assert seen["attainment"] == pytest.approx(0.97)
    assert (seen["gateways"], seen["told"], seen["queue"]) == ([URL], [], 0)
    for row in model["options"]:
        assert row["observed_load"] == pytest.approx(row["planned_load"])


def test_twice_the_traffic_on_half_the_replicas_is_four_times_the_load() -> None:
    plan = make_plan(fleet_id=ID)
    (model,) = plan.models
    two = tuple(replace(a, instances=2) for a in model.allocations)
    one = found(replace(plan, models=(replace(model, allocations=two),)))
    gateway = Gateway(one.plan)
    gateways = source(gateway, one)
    shown(one, gateways)
    for allocation in two:
        gateway.metrics.healthy.set(model.name, allocation.candidate.option.name, value=1)
    gateway.serve_as_planned(60, times=2)
    for row in shown(one, gateways)["options"]:
        assert row["observed_load"] == pytest.approx(4 * row["planned_load"])
    gateway.metrics.healthy.set(model.name, two[0].candidate.option.name, value=0)
    gateway.serve_as_planned(60)
    row = shown(one, gateways)["options"][0]
    assert row["observed_load"] is None and row["observed_rps"] > 0  # nothing ready to be full


def test_what_cannot_be_believed_is_told_and_unknown() -> None:
    one = found()
    gateway = Gateway(one.plan)
    gateways = source(gateway, one)
    shown(one, gateways)
    gateway.serve_as_planned(60)
    shown(one, gateways)
    again = Gateway(one.plan)  # it was started anew
    again.time_s = gateway.time_s + 60
    gateway.metrics, gateway.time_s = again.metrics, again.time_s
    seen = shown(one, gateways)["observed"]
    assert seen["rate_rps"] is seen["attainment"] is seen["over_s"] is None
    assert seen["told"] == [f"{URL}: its counters began anew, so what came before is not known"]
    gateways.get = lambda url, key: Page(text=None, why="Connection refused")
    seen = shown(one, gateways)["observed"]
    assert seen["told"] == [f"{URL}: Connection refused"] and seen["rate_rps"] is None
    gateways.get = lambda url, key: Page(text='melange_gateway_healthy_backends{plan="other"} 1\n')
    seen = shown(one, gateways)["observed"]
    assert seen["told"] == [f"{URL}: serves other, not the plan 'chat'"]


def test_without_a_gateway_nothing_is_asked_and_nothing_observed() -> None:
    one = found()
    gateway = Gateway(one.plan)
    model = shown(one, source(gateway, one, "another fleet"))
    assert model["observed"] is None and gateway.asked == 0
    assert {row["observed_load"] for row in model["options"]} == {None}


def test_the_key_is_the_servers_own_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELANGE_SKY_API_KEY", "sk-secret\nsk-other")
    one = found()
    gateway = Gateway(one.plan)
    gateways = source(gateway, one)
    assert "sk-" not in str(shown(one, gateways)) + repr(gateways)
    assert gateway.key == "sk-secret"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("x", "gateways must name each fleet's gateway, such as {chat: …}"),
        ({"chat": 5}, "gateways: chat: must be an address or a list of such"),
        ({"chat": "10.0.0.2"}, "gateways: chat: '10.0.0.2' is not http://HOST[:PORT]"),
    ],
)
def test_an_address_that_is_none_is_told_and_stops_nothing(given: Any, problem: str) -> None:
    read = read_parameters({"plan_dirs": ["/plans"], "gateways": given})
    assert (read.gateways, read.problems) == ({}, (f"plugins.yaml: {problem}",))


def test_addresses_are_one_or_several() -> None:
    read = read_parameters({"plan_dirs": ["/p"], "gateways": {"a": URL, "b": [URL, "http://h:1"]}})
    assert read.gateways == {"a": (URL,), "b": (URL, "http://h:1")} and read.problems == ()


@run
async def test_a_real_gateway_tells_its_traffic_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELANGE_SKY_API_KEY", KEY)
    plan = replace(split_plan(), fleet_id=ID)
    (model,) = plan.models
    plan = replace(plan, models=(replace(model, slo=SLO(ttft_s=5.0, tpot_s=5.0)),))
    one = found(plan)
    times = iter([100.0, 110.0])
    async with bed({"small": [Replica("s")], "big": [Replica("b")]}, plan) as b:
        gateways = Gateways(
            urls={plan.name: (b.url,)},
            found=lambda: (one,),
            clock=lambda: 1_800_000_000.0,
            steady=lambda: next(times),
        )
        await asyncio.to_thread(gateways.look)
        gateways.clock = lambda: 1_800_000_010.0
        await together([b.stream(words=10) for _ in range(8)])
        (seen,) = (await asyncio.to_thread(gateways.look)).values()
    assert (seen.rate_rps, seen.attainment, seen.over_s) == (pytest.approx(0.8), 1.0, 10.0)
    assert (seen.gateways, seen.told) == ((b.url,), ())
    assert sum(part.rate_rps or 0.0 for part in seen.options.values()) == pytest.approx(0.8)
    assert all(part.load_fraction is not None for part in seen.options.values())
