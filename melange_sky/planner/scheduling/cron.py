"""What runs a schedule every few minutes: a line of crontab, or a job of SkyPilot."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import yaml

from melange_sky.planner.handover import Handover
from melange_sky.planner.output_files import write_text
from melange_sky.planner.timetable import TICK_S
from melange_sky.settings import handed_on
from melange_sky.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.planner.scheduling.folder import Schedule

CRON_FILE, JOB_FILE = "schedule.crontab", "schedule.sky.yaml"
_MOUNT = "~/melange-schedule"


def write_cron(schedule: Schedule, handover: Handover) -> tuple[str, str]:
    """Write a crontab and a SkyPilot job beside the plans; return the texts of both."""
    crontab, job = crontab_text(schedule, handover), job_text(schedule, handover)
    write_text(schedule.folder / CRON_FILE, crontab)
    write_text(schedule.folder / JOB_FILE, job)
    return crontab, job


def crontab_text(schedule: Schedule, handover: Handover) -> str:
    """Return lines for `crontab`: the same command every few minutes, which reckons in UTC itself.

    A crontab of the hours would follow the clock of its machine, which is set twice a year.
    """
    folder = schedule.folder.resolve()
    command = shlex.join(
        [sys.executable, "-m", "melange_sky", "schedule", str(folder), *_words(schedule, handover)]
    )
    log = shlex.quote(str(folder / "schedule.log"))
    kept = [f"{name}={shlex.quote(value)}\n" for name, value in handed_on().items()]
    line = f"*/{TICK_S / 60:g} * * * * {command} >> {log} 2>&1".replace("%", r"\%")
    return f"# Fleets of {_plain(schedule.name)} by the hour; add it with `crontab -e`.\n{''.join(kept)}{line}\n"


def job_text(schedule: Schedule, handover: Handover) -> str:
    """Return a SkyPilot job that carries the schedule out as long as it runs.

    It gets the folder, and access to the API server; that server must be one that it can reach.
    """
    words = shlex.join(_words(schedule, Handover(gateways=handover.gateways)))
    document = {
        "name": f"{schedule.name}-schedule",
        "resources": {"cpus": "2+"},
        "file_mounts": {_MOUNT: str(schedule.folder.resolve())},
        "api_server_access": True,
        "setup": f"pip install 'melange-sky=={__version__}'\n",
        "run": f"while true; do melange-sky schedule {_MOUNT} {words} || true; sleep {TICK_S:g}; done\n",
    }
    head = (
        f"# Fleets of {_plain(schedule.name)} by the hour, carried out by a managed job of SkyPilot:\n"
        "#   sky jobs launch schedule.sky.yaml\n"
        "# The API server must be one that the job reaches; a new `reserve` takes a new launch.\n"
    )
    return head + yaml.safe_dump(document, sort_keys=False)


def _words(schedule: Schedule, handover: Handover) -> Sequence[str]:
    words = ["--apply"]
    if schedule.startup_origin == "--startup-s":
        words += ["--startup-s", f"{schedule.startup_s:g}"]
    for flag, path in (("--routes", handover.routes), ("--backends", handover.backends)):
        if path is not None:
            words += [flag, str(path.resolve())]
    for url in handover.gateways:
        words += ["--gateway", url]
    return words


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:80]
