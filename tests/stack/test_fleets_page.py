"""The Fleets page in a real Chromium, its routes as the plugin has them, around it a stub of SkyPilot's dashboard.

`make test-sky` opens it in the dashboard itself; here are the states that no bed has: traffic that was observed, nothing
known, names that want to be markup, a phone.
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from melange_sky.planfile import dump_plan
from melange_sky.skyplugin.latest import Latest
from melange_sky.skyplugin.observed import Observed
from melange_sky.skyplugin.plan_folders import FoundPlan, PlanFolders
from melange_sky.skyplugin.routes import Board, routes_of
from tests.accessibility import AXE, serious_findings
from tests.factories import make_plan
from tests.skyplugin.test_fleets import name_of, replica, running
from tests.skyplugin.test_observed import ID, URL, Gateway, source

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.stack

DASHBOARD = """<!DOCTYPE html><html lang="en"><head><title>Fleets</title>
<style>* { margin: 0 } a { color: inherit; text-decoration: inherit }</style></head><body><main id="here"></main>
<script>window.SkyDashboardPluginAPI = {
  registerTopNavLink: () => {}, registerRoute: route => { window.route = route }
}</script>
<script src="/plugins/api/melange/fleets.js"></script>
<script>route.mount({container: document.getElementById('here')})</script></body></html>"""
HOSTILE = "<img src=x onerror=alert(1)>"


def observed(one: FoundPlan) -> Observed:
    """What a gateway saw of traffic as planned, in the minute until 20 seconds ago."""
    gateway = Gateway(one.plan)
    gateway.time_s = time.time() - 80
    gateways = source(gateway, one)
    gateways.look()
    gateway.serve_as_planned(60, times=0.5, met=0.97)
    return gateways.look()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn")
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse

    folder = tmp_path_factory.mktemp("plans")
    plans = {
        "a": make_plan(fleet_id=ID),
        "b": make_plan(fleet_id="f" * 12, name="other", model=HOSTILE),
        "c": make_plan(fleet_id="e" * 12, name=HOSTILE),  # no service can be called so
    }
    for name, plan in plans.items():
        (folder / name).mkdir()
        (folder / name / "plan.json").write_text(dump_plan(plan), encoding="utf-8")
    folders = PlanFolders((folder,))
    (one,) = [found for found in folders.plans(datetime.now(timezone.utc))[0] if found.id == ID]
    seen, live = observed(one), running(name_of(one.plan, 0), replica(1))
    board = Board(
        folders=folders,
        records=Latest(lambda: (live,), fresh_s=0),
        gateways=Latest(lambda: seen, fresh_s=0),
    )
    app = FastAPI()
    app.include_router(routes_of(board))
    app.add_api_route("/", lambda: HTMLResponse(DASHBOARD))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module", params=[1300, 360])
def page(address: str, request: pytest.FixtureRequest) -> Iterator[Page]:
    path = shutil.which("chromium")
    if path is None or not AXE.exists():
        pytest.skip("no Chromium or axe-core: `make test-stack` installs both")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        one = browser.new_page(viewport={"width": request.param, "height": 900})
        wrong: list[str] = []
        asked_for: list[str] = []
        one.on("console", lambda message: wrong.append(message.text))
        one.on("pageerror", lambda error: wrong.append(str(error)))
        one.on("dialog", lambda dialog: wrong.append(dialog.message))
        one.on("request", lambda asked: asked_for.append(asked.url))
        one.goto(address)
        one.wait_for_selector("#melange-fleets [data-loaded]")
        yield one
        browser.close()
        assert [url for url in asked_for if not url.startswith(address)] == []
        assert [text for text in wrong if "favicon" not in text and "404" not in text] == []


def figures(page: Page, place: str) -> dict[str, str]:
    found = page.locator(f"{place} [data-figure]")
    names = found.evaluate_all("all => all.map(one => one.dataset.figure)")
    return dict(zip(names, (" ".join(t.split()) for t in found.all_inner_texts()), strict=True))


def test_what_was_observed_stands_beside_the_plan_with_age_and_origin(page: Page) -> None:
    plan = make_plan(fleet_id=ID)
    (model,) = plan.models
    sums = figures(page, f"[data-fleet='{ID}'] > .sums")
    half = model.workload.rate_rps / 2
    rate = sums["observed-rate"]
    assert re.fullmatch(rf"{half:g} mean of 60 s, \d+ s ago, at {re.escape(URL)}", rate), rate
    assert sums["observed-attainment"] == "97.0% of streamed answers, the same 60 s"
    for allocation in model.allocations:
        name = allocation.candidate.option.name
        row = figures(page, f"[data-fleet='{ID}'] [data-option='{name}']")
        assert row["load"] == f"{100 * allocation.load_fraction:.1f}%"
        assert row["observed-load"].startswith(f"{50 * allocation.load_fraction:.1f}% ")


def test_what_nobody_observes_is_not_observed_and_never_zero(page: Page) -> None:
    sums = figures(page, f"[data-fleet='{'f' * 12}'] > .sums")
    assert sums["observed"] == "not observed no gateway is named for it"
    assert figures(page, f"[data-fleet='{'f' * 12}'] tbody")["observed-load"] == "not observed"


def test_axe_finds_nothing_serious_and_names_are_words(page: Page) -> None:
    assert page.locator(f"[data-fleet='{'f' * 12}'] h3").inner_text().startswith(HOSTILE)
    assert "c/plan.json: the plan's name must start with a letter" in page.inner_text(".told")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    page.wait_for_selector("[data-drawing] img")
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert serious_findings(page, "#melange-fleets") == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
