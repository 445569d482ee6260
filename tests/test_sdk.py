"""`sky.melange` in the real SkyPilot: found through the entry point, plans, renders, writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from melange_sky import sdk
from melange_sky.errors import InputError

PROJECT = Path(__file__).resolve().parent.parent

SCRIPT = """
import json, sys
import sky
from sky import melange
assert sky.melange is melange
planned = sky.melange.plan(sys.argv[1], offline=True)
folder = sky.melange.write(planned, sys.argv[2])
for text in sky.melange.render(planned).values():
    task = sky.Task.from_yaml_str(text)
print("SDK " + json.dumps({
    "module": melange.__name__,
    "cost": planned.cost_usd_per_hour,
    "files": sorted(p.name for p in folder.iterdir()),
}))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with what an installer writes about the project's entry points."""
    site = tmp_path / "site"
    info = site / "melange_sky-0.0.0.dist-info"
    info.mkdir(parents=True)
    text = (PROJECT / "pyproject.toml").read_text()
    table = text.partition('[project.entry-points."sky.client_sdks"]\n')[2].partition("\n\n")[0]
    assert table == 'melange = "melange_sky.sdk"'
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: melange-sky\nVersion: 0.0.0\n")
    (info / "entry_points.txt").write_text(f"[sky.client_sdks]\n{table.replace(chr(34), '')}\n")
    return site


def test_sky_melange_plans(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            str(PROJECT / "examples" / "chat.yaml"),
            str(tmp_path / "out"),
        ],
        env={
            "HOME": str(tmp_path),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{installed}{os.pathsep}{PROJECT}",
            "MELANGE_SKY_HOME": str(tmp_path / "store"),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        cwd=tmp_path,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SDK ")]
    assert done.returncode == 0 and lines, done.stderr[-3000:]
    told = json.loads(lines[0].removeprefix("SDK "))
    assert told["module"] == "melange_sky.sdk"
    assert told["cost"] > 0
    assert "plan.json" in told["files"] and any(f.endswith(".sky.yaml") for f in told["files"])


def test_a_written_plan_is_read_back_and_renders_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "store"))
    planned = sdk.plan(PROJECT / "examples" / "chat.yaml", offline=True)
    folder = sdk.write(planned, tmp_path / "out")
    again = sdk.load(folder / "plan.json")
    assert sdk.render(again) == sdk.render(planned)
    for name, text in sdk.render(again).items():
        assert (folder / name).read_text() == text
        assert yaml.safe_load(text)["service"]["replicas"] >= 1
    assert "Total" in sdk.table(again)
    with pytest.raises(InputError):
        sdk.plan(tmp_path / "no.yaml", offline=True)
