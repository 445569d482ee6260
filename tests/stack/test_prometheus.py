"""`profile learn --prometheus` against Debian's Prometheus, filled with an hour of simulated replicas."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from melange_sky.learning import Scrape, learn, windows_of
from melange_sky.learning.windows import pooled
from melange_sky.profiler.prometheus import Asked, Prometheus
from tests.learning.kept import series_of
from tests.learning.pages import ENGINE
from tests.learning.test_learning import LIMITS, watched
from tests.stack.vllm_server import free_port

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="no Prometheus here"),
]
BASIC = "Basic b2JzZXJ2ZXI6c2VjcmV0"  # observer:secret
HASHED = "$2b$04$J0.jZIOjm/sTX.hwIxuO..9FPGX.j0hRhhpYYDNJgA4xskMw.AtCW"


def shifted(looks: Sequence[Scrape], by_s: float) -> list[Scrape]:
    """The same looks later, in whole milliseconds as a Prometheus keeps times."""
    return [dataclasses.replace(look, time_s=round(look.time_s + by_s, 3)) for look in looks]


@contextlib.contextmanager
def filled(folder: Path, servers: Sequence[Sequence[Scrape]]) -> Iterator[str]:
    """Run a Prometheus that kept these looks, behind a user and a password."""
    lines = [
        f"{dict(key)['__name__']}{{"
        + ",".join(f'{name}="{text}"' for name, text in key if name != "__name__")
        + f"}} {value} {at_s:.3f}\n"
        for k, looks in enumerate(servers)
        for key, pairs in series_of(looks, {"instance": f"r{k}:8000", "job": "chat"}).items()
        for at_s, value in pairs
    ]
    (folder / "looks.om").write_text("".join(lines) + "# EOF\n")
    make = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "looks.om", "data"]
    subprocess.run(make, cwd=folder, check=True, capture_output=True, timeout=120)
    (folder / "prometheus.yml").write_text("global: {}\n")
    (folder / "web.yml").write_text(f"basic_auth_users:\n  observer: {HASHED}\n")
    port = free_port()
    flags = ["--config.file=prometheus.yml", "--web.config.file=web.yml"]
    flags += ["--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *flags], cwd=folder, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/-/ready", folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(address: str, log: Path) -> None:
    asked = urllib.request.Request(address, headers={"Authorization": BASIC})
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if urllib.request.urlopen(asked, timeout=5).status == 200:
                return
        time.sleep(0.2)
    raise RuntimeError(log.read_text(errors="replace")[-2000:])


def test_a_real_prometheus_tells_what_the_servers_told(tmp_path) -> None:
    estimate, _, seen = watched(0, 0.75)
    end_s = time.time() - 5 - seen[-1].time_s
    servers = [shifted(seen, end_s), shifted(seen[:50] + seen[60:], end_s - 3)]
    with filled(tmp_path, servers) as url:
        server = Prometheus.at(f"{url}/", BASIC, "MINE")
        kept = server.looks(ENGINE, Asked(window_s=3600, model="m", select='job="chat"'))
        last = server.looks(ENGINE, Asked(window_s=600, model="m"))
    assert [list(looks) for looks in kept.looks] == servers
    assert (kept.unread, kept.warned) == (0, 0)
    assert all(35 <= len(looks) <= 40 for looks in last.looks)
    told, direct = (
        learn(estimate, pooled(windows_of(looks) for looks in each), LIMITS)
        for each in (kept.looks, servers)
    )
    assert told == direct
