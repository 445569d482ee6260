"""The plugin and its guard, broken on purpose: SkyPilot's server starts and serves, and launches pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sky.bed import HERE
from tests.sky.browser import visiting
from tests.sky.fleets_page import PAGE, READY
from tests.sky.server import api_server
from tests.sky.test_plugin import CONFIG

pytestmark = [pytest.mark.sky, pytest.mark.timeout(600)]

BROKEN = """
import sys

for name in ("fleets", "guarded"):
    sys.modules[f"melange_sky.skyplugin.{name}"] = None
"""
PLUGIN = {
    "class": "melange_sky.skyplugin.Plugin",
    "parameters": {"plan_dirs": "no list", "colour": "red"},
}


def test_a_server_with_a_broken_plugin_starts_serves_and_says_so(tmp_path: Path) -> None:
    with api_server(tmp_path, CONFIG, [PLUGIN], more_code=BROKEN) as broken:
        assert broken.get("/api/health")[0] == 200
        status, told = broken.get("/plugins/api/melange/fleets")
        (problem,) = json.loads(told)["problems"]
        assert status == 200
        assert problem.startswith("the plugin could not start: ModuleNotFoundError: ")
        with visiting(broken.url + PAGE, READY) as visit:
            assert problem in visit.page.locator("#melange-fleets").inner_text()
        assert visit.errors == []
    log = broken.log.read_text()
    assert "melange-sky: the plugin could not start; the API server goes on without it" in log


ASK = (
    BROKEN
    + """
import sky
from sky.server.requests.request_names import AdminPolicyRequestName
from sky.utils import admin_policy_utils
from sky.utils.config_utils import Config

task = sky.Task(name="train", run="true")
policy = admin_policy_utils._get_policy_impl("melange_sky.skyplugin.Guard")
keys = {"plugins": {"melange": {"guard": {"launch": "refuse", "max_usd_per_hour": 1}}}}
request = sky.UserRequest(task, Config(keys), AdminPolicyRequestName.CLUSTER_LAUNCH)
print("PASSED", policy.apply(request).task is task)
"""
)


def test_a_broken_guard_lets_a_launch_pass_and_logs_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=HERE.parent.parent,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert "PASSED True" in done.stdout, done.stderr
    said = done.stdout + done.stderr
    assert "melange-sky: the guard let this pass unchecked: ModuleNotFoundError" in said
