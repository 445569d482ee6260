"""The plugin in a real API server with stand-in clouds, its page in a real Chromium, its guard at real requests.

The canary: what SkyPilot asks of policies and validators, so that a new SkyPilot cannot change it unseen.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.planfile import dump_plan
from melange_sky.plans import Plan
from melange_sky.rendering import render_services, write_folder
from tests.factories import make_offer, make_plan
from tests.sky.bed import BedUnavailableError, require_machine
from tests.sky.browser import visiting
from tests.sky.client import Story, wait_for
from tests.sky.fleets_page import PAGE, READY
from tests.sky.server import ApiServer, api_server
from tests.skycatalog import write_catalogs

pytestmark = [pytest.mark.sky, pytest.mark.timeout(900)]

ID = "0123456789ab"
SERVICE = "chat-a10g"
VIEWER = {"X_Auth_Request_Email": "viewer@example.org"}
CONSOLIDATED = {"controller": {"consolidation_mode": True}}
GUARD = {"launch": "refuse", "policy": "stand_ins.Policy", "max_usd_per_hour": 4}
CONFIG: dict[str, Any] = {
    "serve": CONSOLIDATED,
    "jobs": CONSOLIDATED,
    "rbac": {"default_role": "viewer"},
    "admin_policy": "melange_sky.skyplugin.Guard",
    "plugins": {"melange": {"guard": GUARD}},
}


def the_plan() -> Plan:
    """One g5.xlarge on AWS at $1.006/h, and one a2-ultragpu-1g on GCP."""
    return make_plan(fleet_id=ID)


def write_plan(folder: Path) -> Path:
    plan = the_plan()
    write_folder(folder, {"plan.json": dump_plan(plan), **render_services(plan)}, force=False)
    return folder


def plugins(plans: Path) -> list[dict[str, Any]]:
    ours = {"class": "melange_sky.skyplugin.Plugin", "parameters": {"plan_dirs": [str(plans)]}}
    return [{"class": "stand_ins.Clouds"}, ours]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    if os.geteuid() != 0:
        pytest.skip("needs root: the stand-in server's controllers use rsync and ports")
    try:
        require_machine()
    except BedUnavailableError as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("sky")
    write_plan(home / "plans" / "chat-plan")
    offers = [a.candidate.option.offer for a in the_plan().models[0].allocations]
    larger = make_offer(instance_type="g5.2xlarge", price_usd_per_hour=1.212)
    write_catalogs(home, [offer for offer in (*offers, larger) if offer is not None])
    with api_server(home, CONFIG, plugins(home / "plans")) as running:
        yield running


@pytest.fixture(scope="module")
def service(server: ApiServer) -> dict[str, Any]:
    """The document of a service that `sky serve up` has brought up; its replica never gets a machine."""
    story = Story("plugin")
    file = server.home / "plans" / "chat-plan" / f"{SERVICE}.sky.yaml"
    up = server.run(
        "sky", "serve", "up", "--yes", "-n", SERVICE, str(file), "--secret", "HF_TOKEN=none"
    )
    assert up.returncode == 0, up.stdout + up.stderr
    story.note("sky serve up returned")
    wait_for(lambda: any(one["replica"] for one in server.asked()), "a replica's launch", 180)
    wait_for(lambda: validated(server, replica="1") != [], "a replica's check", 60)
    story.note("its replica was launched")
    document: dict[str, Any] = yaml.safe_load(file.read_text())
    return document


def policies(server: ApiServer, **about: Any) -> list[dict[str, Any]]:
    asked = [one for one in server.asked() if one["kind"] == "policy"]
    return [one for one in asked if all(one[key] == value for key, value in about.items())]


def validated(server: ApiServer, **about: Any) -> list[dict[str, Any]]:
    asked = [one for one in server.asked() if one["kind"] == "validator"]
    return [one for one in asked if all(one[key] == value for key, value in about.items())]


@pytest.mark.usefixtures("service")
def test_canary_a_policy_hears_of_a_service_and_never_of_its_replicas(server: ApiServer) -> None:
    up = [(one["name"], one["at_client"]) for one in policies(server, replica=None)]
    assert up == [
        ("serve.up", True),
        ("validate", False),
        ("optimize", False),
        ("serve.up", False),
    ]
    replicas = [one for one in policies(server) if one["replica"] is not None]
    assert {(one["name"], one["cluster"]) for one in replicas} <= {
        ("validate", f"{SERVICE}-{number}") for number in range(1, 9)
    }
    assert replicas, "SkyPilot asks no policy about a replica any more"
    (first, *_) = validated(server, replica="1")
    assert first["mark"] == {"id": ID, "plan": "chat", "option": "a10g"}


@pytest.mark.usefixtures("service")
def test_the_page_shows_the_plan_and_what_runs(server: ApiServer) -> None:
    with visiting(server.url + PAGE, READY) as visit:
        fleet = visit.figures(f"[data-fleet='{ID}'] > .sums")
        small = visit.figures("[data-option='a10g']")
        large = visit.figures("[data-option='a100']")
        link = visit.page.get_by_role("link", name="Fleets").get_attribute("href")
        visit.page.get_by_text("Figures", exact=True).click()
        drawn = visit.page.locator("[data-drawing] img")
        drawn.first.wait_for(timeout=60_000)
        sizes = drawn.evaluate_all(
            "all => Promise.all(all.map(one => one.decode().then(() => one.naturalWidth)))"
        )
        for one in visit.page.locator("#melange-fleets figure summary").all():
            one.click()
        unusable = visit.unusable()
        visit.page.get_by_role("button", name="Refresh").click()
        visit.page.wait_for_timeout(1500)
        still = drawn.count()
    assert len(sizes) == still >= 3 and min(sizes) > 100  # open after a refresh too
    assert visit.errors == unusable == []
    assert visit.hosts == {server.url.removeprefix("http://")}
    assert link is not None and link.endswith("/plugins/melange")
    plan = json.loads((server.home / "plans" / "chat-plan" / "plan.json").read_text())
    assert fleet["fleet-planned-usd"] == f"${plan['cost_usd_per_hour']:.3f}/h"
    for row, shown in zip(plan["allocations"], (small, large), strict=True):
        assert shown["planned"] == str(row["replicas"])
        assert shown["price"].startswith(f"${row['price_usd_per_hour']:.3f} ")
        assert shown["load"] == f"{100 * row['load_fraction']:.1f}%"
        assert shown["observed-load"] == "not observed"
    assert small["live"] in ("0 ready, 1 starting", "0 ready, 1 starting, 1 failed")
    assert (large["live"], large["live-usd"]) == ("0 ready", "$0.000")


def test_a_viewer_reads_and_cannot_write(server: ApiServer) -> None:
    for path in (
        "fleets",
        f"fleets/{ID}",
        "fleets/chat",
        "fleets/chat/figures",
        "fleets/chat/figures/mix.svg",
        "prices",
        f"plans/{ID}",
        "fleets.js",
    ):
        status, _ = server.get(f"/plugins/api/melange/{path}", **VIEWER)
        assert status == 200, path
    for path in ("/plugins/api/melange/fleets", "/serve/up", "/serve/down"):
        assert server.get(path, "POST", **VIEWER) == (403, b'{"detail":"Forbidden"}')
    with visiting(server.url + PAGE, READY, **VIEWER) as visit:
        assert visit.page.locator(f"[data-fleet='{ID}']").count() == 1
    assert visit.errors == []


def test_what_is_not_there_is_404_and_nothing_takes_a_body(server: ApiServer) -> None:
    assert server.get("/plugins/api/melange/fleets/none")[0] == 404
    assert server.get("/plugins/api/melange/plans/..%2F..%2Fconfig.yaml")[0] == 404
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert server.get("/plugins/api/melange/fleets", method)[0] == 405
    assert b"hf_" not in server.get("/plugins/api/melange/fleets")[1]


def test_the_servers_metrics_have_the_fleet(server: ApiServer) -> None:
    import urllib.request

    def page() -> str:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=60
        ) as response:
            text: str = response.read().decode()
            return text

    wait_for(lambda: "melange_fleet_replicas{" in page(), "the gauges", 60)
    lines = page().splitlines()
    cost = the_plan().cost_usd_per_hour
    assert f'melange_fleet_usd_per_hour{{fleet="chat/{ID}",state="planned"}} {cost:g}' in lines
    series = f'melange_fleet_replicas{{fleet="chat/{ID}",model="chat",option="a10g"'
    assert f'{series},state="planned"}} 1.0' in lines


REQUESTS = """
import copy, json, sys, yaml
import sky

document = yaml.safe_load(open(sys.argv[1]))
said = {}

def ask(name, call):
    try:
        said[name] = repr(sky.get(call()))
    except Exception as error:
        said[name] = str(error)

def task(**resources):
    one = sky.Task(name=resources.pop("name", "train"), run="true")
    one.set_resources(sky.Resources(**resources))
    return one

def service(**resources):
    changed = copy.deepcopy(document)
    changed["secrets"] = {name: "none" for name in changed.get("secrets") or {}}
    changed["resources"].update(resources)
    return sky.Task.from_yaml_config(changed)

a100 = dict(infra="gcp/us-central1", accelerators="A100-80GB:1")
small = dict(infra="aws/us-east-1", instance_type="g5.xlarge")
ask("launch", lambda: sky.launch(task(**a100), cluster_name="one", dryrun=True))
ask("launch, own limit", lambda: sky.launch(task(**small, max_hourly_cost=0.5), cluster_name="two", dryrun=True))
ask("launch, own policy", lambda: sky.launch(task(name="forbidden", **small), cluster_name="three", dryrun=True))
ask("launch, within", lambda: sky.launch(task(**small), cluster_name="four", dryrun=True))
ask("jobs.launch", lambda: sky.jobs.launch(task(**a100), name="job"))
ask("serve.up", lambda: sky.serve.up(service(instance_type="g5.2xlarge"), "other"))
ask("serve.update", lambda: sky.serve.update(service(instance_type="g5.2xlarge"), "chat-a10g", sky.serve.UpdateMode.ROLLING))
print("SAID " + json.dumps(said))
"""


@pytest.mark.usefixtures("service")
def test_the_guard_refuses_in_one_sentence_and_the_own_policy_stands(server: ApiServer) -> None:
    script = server.home / "ask.py"
    script.write_text(REQUESTS)
    file = server.home / "plans" / "chat-plan" / f"{SERVICE}.sky.yaml"
    done = server.run("python", str(script), str(file), timeout_s=400)
    assert "SAID " in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads(done.stdout.rpartition("SAID ")[2])
    dear = (
        "melange-sky: train would cost $5.07/h (1 × $5.070 for (A100-80GB:1) on gcp/us-central1, "
        "SkyPilot's catalog), and 4 are allowed."
    )
    other = (
        "melange-sky: chat-a10g may run on g5.2xlarge (A10G:1) on aws/us-east-1, and the plan 'chat' has A10G:1 of "
        "aws/us-east-1 g5.xlarge for it."
    )
    assert said["launch"] == said["jobs.launch"] == dear
    assert said["launch, own limit"] == (
        "melange-sky: train: g5.xlarge (A10G:1) on aws/us-east-1 costs $1.006/h (SkyPilot's catalog), more than the "
        "task's own max_hourly_cost of 0.5, which SkyPilot does not heed here."
    )
    assert "the boss says no" in said["launch, own policy"]
    assert said["launch, within"] == "(None, None)"
    assert said["serve.up"] == said["serve.update"] == other
    names = {one["name"] for one in policies(server, at_client=False)}
    assert {"launch", "jobs.launch", "serve.up", "serve.update"} <= names
