"""What the stories on the bed have in common: a user's desk, and waiting for things to become so."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

from tests.sky.bed import CLUSTER, NODES, Bed

PRICES = {node.accelerator: node.price_usd_per_hour for node in NODES if node.accelerator}
READY_LIMIT_S = 900


class Story:
    """Tells what happened when, for the log of a long test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start = time.monotonic()

    def note(self, what: str) -> None:
        print(f"[{self.name} {time.monotonic() - self.start:5.0f} s] {what}", flush=True)


def write_offers(folder: Path) -> Path:
    """Write the bed's nodes as offers of one's own, at the prices that SkyPilot shows for them."""
    rows = [
        "cloud,region,instance_type,accelerator,accelerator_count,vcpus,memory_gib,price_usd_per_hour,source,as_of"
    ]
    rows += [
        f"slurm,{CLUSTER},bed.{name.lower()},{name},1,2,4,{price},test bed,2026-01-01"
        for name, price in PRICES.items()
    ]
    path = folder / "offers.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = READY_LIMIT_S) -> None:
    """Return once `condition` holds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit_s, f"{what} took more than {limit_s:g} s"
        time.sleep(1)


def running(bed: Bed, prefix: str) -> dict[str, str]:
    """Return the names of the Slurm jobs that run by their ids: one per replica or profiling job."""
    lines = bed.run("squeue", "--noheader", "-o", "%i %j", timeout_s=120).stdout.splitlines()
    jobs = dict(line.split(None, 1) for line in lines)
    return {number: name.strip() for number, name in jobs.items() if name.startswith(prefix)}


@contextmanager
def gateway(bed: Bed, folder: Path, *words: str) -> Iterator[str]:
    """Run the gateway over the plan in `folder` and yield its URL; its log lies with SkyPilot's.

    `words` say where its backends are and more.
    """
    log = bed.home / f"gateway-{folder.parent.name}.log"
    with log.open("w") as sink:
        process = Popen(
            ["melange-sky", "gateway", str(folder), *words, "--port", "0"],
            env=bed.env,
            cwd=bed.home,
            stdout=sink,
            stderr=sink,
        )
    try:
        wait_for(
            lambda: "listening on" in log.read_text() or process.poll() is not None,
            "the gateway",
            120,
        )
        url = log.read_text().partition("listening on")[2].split()[0]
        wait_for(lambda: healthy(url), "the gateway's first look at its backends", 120)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def healthy(url: str) -> bool:
    """Return whether the gateway sees a healthy backend of every option."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as response:
        lines = response.read().decode().splitlines()
    gauges = [line for line in lines if line.startswith("melange_gateway_healthy_backends{")]
    return bool(gauges) and all(float(line.rpartition(" ")[2]) > 0 for line in gauges)
