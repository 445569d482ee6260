"""`profile learn --prometheus` and `watch --prometheus` against Debian's Prometheus."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from melange_sky.learning import Scrape, learn, windows_of
from melange_sky.learning.windows import pooled
from melange_sky.planner.watching.sources.prometheus import PrometheusSource
from melange_sky.profiler.prometheus import Asked, Prometheus
from melange_sky.watching.seen import Seen
from tests.gateway.bed import split_plan
from tests.learning.kept import series_of
from tests.learning.pages import ENGINE
from tests.learning.test_learning import LIMITS, watched
from tests.stack.vllm_server import free_port
from tests.watching.test_sources import NAME, page, pages

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="no Prometheus here"),
]
BASIC = "Basic b2JzZXJ2ZXI6c2VjcmV0"  # observer:secret
HASHED = "$2b$04$J0.jZIOjm/sTX.hwIxuO..9FPGX.j0hRhhpYYDNJgA4xskMw.AtCW"


def shifted(looks: Sequence[Scrape], by_s: float) -> list[Scrape]:
    """The same looks later, in whole milliseconds as a Prometheus keeps times."""
    return [dataclasses.replace(look, time_s=round(look.time_s + by_s, 3)) for look in looks]


def filled(folder: Path, servers: Sequence[Sequence[Scrape]]) -> None:
    """Put looks into the store of a Prometheus that is to be started."""
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


@contextlib.contextmanager
def running(folder: Path, config: str = "global: {}\n") -> Iterator[str]:
    """Run a Prometheus over a folder, behind a user and a password."""
    (folder / "prometheus.yml").write_text(config)
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
    filled(tmp_path, servers)
    with running(tmp_path) as url:
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


SCRAPES = """
scrape_configs:
  - job_name: gateways
    scrape_interval: 1s
    static_configs: [{targets: ["%s"]}]
"""


def test_a_watcher_sees_gateways_through_a_real_prometheus(tmp_path) -> None:
    with (
        pages(page(100, plan=NAME)) as (gateway, now),
        running(tmp_path, SCRAPES % gateway.removeprefix("http://")) as url,
    ):
        server = Prometheus.at(url, BASIC, "MINE")
        source = PrometheusSource(server=server, plan=split_plan().models[0])
        first = _until(source, lambda seen: seen.live == {"small": 2})
        assert first.faults == ()
        now[0] = page(1000, refused=100, plan=NAME)
        seen = _until(source, lambda seen: bool(seen.rate_rps))
        assert seen.faults == ()
        assert seen.rate_rps == pytest.approx(10 * (seen.refused_rps or 0))
        now[0] = page(5, plan=NAME)
        assert [f.code for f in _until(source, lambda s: bool(s.faults)).faults] == ["reset"]


def _until(source: PrometheusSource, holds: Callable[[Seen], bool]) -> Seen:
    until = time.monotonic() + 60
    while not holds(seen := source.see()):
        assert time.monotonic() < until, seen
        time.sleep(1.1)
    return seen
