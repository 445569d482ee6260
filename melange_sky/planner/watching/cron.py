"""What keeps a watcher running: a line of crontab that starts it again, or a job of SkyPilot."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import yaml

from melange_sky.errors import InputError
from melange_sky.planfile import load_plan
from melange_sky.planner.output_files import write_text
from melange_sky.settings import handed_on
from melange_sky.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.planner.watching.asking import WatchOptions

CRON_FILE, JOB_FILE, LOG_FILE = "watch.crontab", "watch.sky.yaml", "watch.log"
AGAIN_MIN = 5
"""Minutes after which a watcher that ended is started again."""

_MOUNT = "~/melange-watch"
_BUSY = "another watcher of this fleet is at work"


def write_cron(folder: Path, options: WatchOptions) -> str:
    """Write a crontab and a SkyPilot job beside a plan; return the crontab. Raises InputError where it cannot."""
    if not folder.is_dir():
        raise InputError(f"--cron: give the plan's folder, not {folder.name}")
    planned = load_plan(folder)
    options.check(planned)
    name = planned.name
    crontab = crontab_text(folder, name, options)
    write_text(folder / CRON_FILE, crontab)
    write_text(folder / JOB_FILE, job_text(folder, name, options))
    return crontab


def crontab_text(folder: Path, name: str, options: WatchOptions) -> str:
    """Return lines for `crontab`: the watcher, started again where none runs; one that does is left alone."""
    place = folder.resolve()
    words = [sys.executable, "-m", "melange_sky", "watch", str(place), *_words(options)]
    log = shlex.quote(str(place / LOG_FILE))
    quiet = f"grep --line-buffered -v {shlex.quote(_BUSY)}"
    line = f"*/{AGAIN_MIN} * * * * {shlex.join(words)} 2>&1 | {quiet} >> {log}".replace("%", r"\%")
    kept = "".join(f"{name}={shlex.quote(value)}\n" for name, value in handed_on().items())
    return f"# The watcher of {_plain(name)}; add it with `crontab -e`.\n{kept}{line}\n"


def job_text(folder: Path, name: str, options: WatchOptions) -> str:
    """Return a SkyPilot job that watches as long as it runs, on a copy of the folder of its own.

    Files of this machine (--observed, --routes, --backends) are not there: it sees gateways, replicas or a
    Prometheus that it can reach.
    """
    words = shlex.join(_words(options, local=False))
    document = {
        "name": f"{name}-watch",
        "resources": {"cpus": "2+"},
        "file_mounts": {_MOUNT: str(folder.resolve())},
        "api_server_access": True,
        "setup": f"pip install 'melange-sky=={__version__}'\n",
        "run": f"while true; do melange-sky watch {_MOUNT} {words} || true; sleep 60; done\n",
    }
    head = (
        f"# The watcher of {_plain(name)} as a managed job of SkyPilot:\n"
        "#   sky jobs launch watch.sky.yaml\n"
        "# Add --secret MELANGE_SKY_API_KEY (or PROMETHEUS_TOKEN) where what it reads asks for a key.\n"
        "# API server and gateway must be ones that the job reaches. The plan and the journal that it goes on\n"
        "# with are its own copies: fetch them before the job ends, and do not watch the folder here meanwhile.\n"
    )
    return head + yaml.safe_dump(document, sort_keys=False)


def _words(options: WatchOptions, *, local: bool = True) -> list[str]:
    """Return the flags that the watcher is to be started with."""
    words = ["--mode", options.mode, "--every", f"{options.every_s:g}"]
    for flag, text in (("--gateway", options.gateway), ("--prometheus", options.prometheus)):
        if text is not None:
            words += [flag, text]
    for place in options.metrics:
        words += ["--metrics", place]
    if options.startup_s is not None:
        words += ["--startup-s", f"{options.startup_s:g}"]
    words += ["--drain", f"{options.drain_s:g}"]
    files = {
        "--observed": options.observed,
        "--routes": options.routes,
        "--backends": options.backends,
        "--policy": options.policy,
    }
    for flag, path in files.items() if local else ():
        if path is not None:
            words += [flag, str(path.resolve())]
    return words


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:80]
