"""Prices: refresh, listing and streaming against plain clients doing the same work. Run: `make bench`.

Prints, in one run, with everything served on loopback from synthetic files:
* refresh of 25 clouds (a 5 MB AWS and a 2 MB RunPod file, answered at once) against one `requests`
  client fetching and `pandas.read_csv` parsing the same files in sequence: ratio ≤ 1.3
* `prices list` on a warm store against `sky.catalog.list_accelerators` on the same warm catalogs,
  each in a new process: ratio ≤ 0.2
* peak memory of each, and of streaming an AWS bulk offer file of 480 MB: under 300 MB
"""

from __future__ import annotations

import contextlib
import http.server
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import ClassVar

from table import Beside, Figure, note

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from melange_sky.names.clouds import CLOUDS  # noqa: E402
from tests.pricing.catalogs import HEADERS, PLAIN_HEADER, synthetic  # noqa: E402

ROUNDS = 5
BULK_BYTES = 480 * 2**20

FETCH_PLAIN = """
import io, sys, requests, pandas
for cloud in sys.argv[2].split(","):
    answer = requests.get(f"{sys.argv[1]}/v8/{cloud}/vms.csv")
    answer.raise_for_status()
    pandas.read_csv(io.StringIO(answer.text))
"""
LIST_WITH_SKY = """
import sys
import sky.skylet.constants as constants
constants.HOSTED_CATALOG_DIR_URL = constants.HOSTED_CATALOG_DIR_URL_S3_MIRROR = sys.argv[1]
from sky import catalog
print(sum(map(len, catalog.list_accelerators(clouds=sys.argv[2].split(","), all_regions=True).values())))
"""


def grown(cloud: str, size: int) -> str:
    """A file of that cloud's shape and about that size: most rows without GPUs, as AWS's."""
    header = HEADERS.get(cloud, PLAIN_HEADER)
    lines = synthetic(cloud).splitlines()[1:]
    columns = header.split(",")
    gpu = [line for line in lines if "L4" in line or "H100" in line]
    rows = [header, *lines]
    length = sum(map(len, rows))
    i = 0
    while length < size:
        if cloud == "runpod" or i % 8 == 0:
            row = gpu[i % len(gpu)].replace("one.", f"t{i % 300}.one.").replace("r1", f"r{i % 30}")
        else:
            cells = {
                "InstanceType": f"m{i % 900}.large",
                "vCPUs": "8",
                "MemoryGiB": "32.0",
                "Price": f"{0.1 + i % 97 / 50}",
                "SpotPrice": "0.05",
                "Region": f"r{i % 30}",
                "AvailabilityZone": f"r{i % 30}-z{i % 3}",
            }
            row = ",".join(cells.get(column, "") for column in columns)
        rows.append(row)
        length += len(row) + 1
        i += 1
    return "\n".join(rows) + "\n"


class Server(http.server.ThreadingHTTPServer):
    """A loopback server that takes all connections at once, as a real one does."""

    daemon_threads = True
    request_queue_size = 128


class Catalogs(http.server.BaseHTTPRequestHandler):
    """Serves the catalogs and a bulk offer file made up while it is sent."""

    files: ClassVar[dict[str, bytes]] = {}
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.endswith("index.csv"):
            self._bulk()
            return
        data = self.files.get(self.path)
        self.send_response(200 if data is not None else 404)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def _bulk(self) -> None:
        block = b"".join(
            b'"SKU%d","JRTCKXETXF","OnDemand","Hrs","0.1","USD","m5.large",%s\n'
            % (i, b'"filler text of a product",' * 20)
            for i in range(1700)
        )
        header = (
            b'"SKU","OfferTermCode","TermType","Unit","PricePerUnit","Currency","Instance Type","LeaseContractLength",'
            b'"PurchaseOption","OfferingClass","Tenancy","Operating System","CapacityStatus",'
            b'"Pre Installed S/W"\n'
            b'"A","JRTCKXETXF","OnDemand","Hrs","0.8048","USD","g6.xlarge","","","","Shared","Linux","Used","NA"\n'
        )
        times = BULK_BYTES // len(block)
        self.send_response(200)
        self.send_header("Content-Length", str(len(header) + times * len(block)))
        self.end_headers()
        self.wfile.write(header)
        with contextlib.suppress(ConnectionError):  # cut off in the midst of it
            for _ in range(times):
                self.wfile.write(block)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def timed(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a Python process; return wall seconds and peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    process.stderr.close()
    if process.returncode:
        sys.exit(f"{arguments[:4]} ended with {process.returncode}: {said.decode()[-800:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def compare(what: str, bound: float, ours: list[float], limit: str, theirs: list[float]) -> None:
    """Note the medians."""
    beside = Beside(name=limit, value=statistics.median(theirs))
    note(Figure(what=what, ours=statistics.median(ours), limit=beside, of_limit=bound))


def main() -> None:
    clouds = ",".join(CLOUDS)
    sizes = {"aws": 5_000_000, "runpod": 2_000_000}
    for cloud in CLOUDS:
        Catalogs.files[f"/v8/{cloud}/vms.csv"] = grown(cloud, sizes.get(cloud, 0)).encode()
    server = Server(("127.0.0.1", 0), Catalogs)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    with tempfile.TemporaryDirectory() as folder:
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
        environment |= {"HOME": folder, "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
        environment |= {"MELANGE_SKY_CATALOG_URL": url, "MELANGE_SKY_HOME": f"{folder}/home"}
        environment["MELANGE_SKY_AWS_URL"] = f"{url}/region_index.json"
        index = '{"regions": {"us-east-1": {"currentVersionUrl": "/bulk/index.json"}}}'
        Catalogs.files["/region_index.json"] = index.encode()
        run(clouds, url, environment)
    server.shutdown()


def run(clouds: str, url: str, environment: dict[str, str]) -> None:
    sizes = sum(map(len, Catalogs.files.values())) / 1e6
    print(f"{len(CLOUDS)} clouds, {sizes:.1f} MB, {ROUNDS} rounds, medians")
    refresh = ["-m", "melange_sky", "prices", "refresh", "--infra", clouds]
    ours, theirs, peaks = [], [], []
    for i in range(ROUNDS):
        cold = {**environment, "MELANGE_SKY_HOME": f"{environment['MELANGE_SKY_HOME']}-{i}"}
        seconds, peak = timed(refresh, cold)
        ours.append(seconds)
        peaks.append(peak)
        theirs.append(timed(["-c", FETCH_PLAIN, url, clouds], environment)[0])
    compare("prices refresh from nothing", 1.3, ours, "requests + pandas", theirs)
    timed(refresh, environment)
    hosted = ",".join(c for c in CLOUDS if c not in ("kubernetes", "ssh", "slurm", "vsphere"))
    ours, theirs = [], []
    timed(["-W", "ignore", "-c", LIST_WITH_SKY, url, hosted], environment)
    # SkyPilot has now fetched its own copies, unmodified: both read warm files
    for _ in range(ROUNDS):
        seconds, peak = timed(
            ["-m", "melange_sky", "prices", "list", "--infra", hosted], environment
        )
        ours.append(seconds)
        peaks.append(peak)
        theirs.append(timed(["-W", "ignore", "-c", LIST_WITH_SKY, url, hosted], environment)[0])
    compare("prices list on a warm store", 0.2, ours, "sky.catalog", theirs)
    bulk = ["-m", "melange_sky", "prices", "refresh", "--source", "aws", "--infra", "aws/us-east-1"]
    seconds, peak = timed([*bulk, "--deadline", "300"], environment)
    note(Figure(what=f"AWS bulk file of {BULK_BYTES / 2**20:.0f} MiB", ours=seconds))
    peaks.append(peak)
    note(Figure(what="peak memory of refresh and list", ours=max(peaks), unit="MB", at_most=300))


if __name__ == "__main__":
    main()
