"""A Kubernetes cluster as SkyPilot sees it, to offers that a spec can use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from melange_sky.pricing.own_csv import read_own_csv
from melange_sky.skyserve.cluster import NodeShare, cluster_csv, node_shares
from tests.cli.runner import melange_sky


def node(name: str | None, gpus: int, **over: Any) -> dict[str, Any]:
    """One node as `sky.models.KubernetesNodeInfo` holds it."""
    return {
        "name": f"{name}-{gpus}",
        "accelerator_type": name,
        "total": {"accelerator_count": gpus},
        "free": {"accelerators_available": gpus},
        "cpu_count": 96.0,
        "memory_gb": 800.0,
        "is_ready": True,
        "is_cordoned": False,
        **over,
    }


def shares(*nodes: dict[str, Any], pricing: Any = None) -> dict[tuple[str, int], NodeShare]:
    return {(s.accelerator, s.count): s for s in node_shares(nodes, pricing, "prod")}


def test_parts_of_nodes_and_how_many_there_are() -> None:
    found = shares(node("H100", 8), node("H100", 8), node("L4", 1, cpu_count=None), node(None, 0))
    assert {key: s.fit for key, s in found.items()} == {
        ("H100", 1): 16,
        ("H100", 2): 8,
        ("H100", 4): 4,
        ("H100", 8): 2,
        ("L4", 1): 1,
    }
    assert (found["H100", 8].vcpus, found["H100", 8].memory_gib) == (86.0, 720.0)
    assert (found["H100", 1].vcpus, found["L4", 1].vcpus) == (10.0, None)


def test_a_replica_may_land_on_the_smallest_host() -> None:
    found = shares(node("H100", 8), node("H100", 8, memory_gb=400.0))
    assert found["H100", 8].memory_gib == 360.0


@pytest.mark.parametrize(
    "over", [{"is_ready": False}, {"is_cordoned": True}, {"total": {"accelerator_count": 0}}]
)
def test_nodes_that_take_nothing_offer_nothing(over: dict[str, Any]) -> None:
    assert not shares(node("H100", 8, **over))


def test_what_skypilot_is_told_of_prices_is_filled_in() -> None:
    found = shares(node("H100", 2), pricing={"accelerators": {"h100": 2.5}})
    assert [found["H100", n].usd_per_hour for n in (1, 2)] == [2.5, 5.0]


def test_the_csv_is_one_of_own_offers(tmp_path: Path) -> None:
    nodes = [node("H100", 8), node("A100-80GB", 4)]
    listed = node_shares(nodes, {"accelerators": {"H100": 2.0}}, "k/prod")
    path = tmp_path / "my.csv"
    path.write_text(cluster_csv(listed))
    assert "resources: {limits: {A100-80GB: 4, H100: 8}}" in path.read_text()
    offers, _ = read_own_csv(path)
    assert len(offers) == len(listed) == 7
    for offer in offers:
        assert (offer.cloud, offer.region, offer.source) == ("kubernetes", "k/prod", "own cluster")
        codes = {flag.code for flag in offer.blocked(False)}
        assert codes == (set() if offer.accelerator == "H100" else {"price-missing"})


def test_the_fields_that_are_read_are_skypilot_s() -> None:
    """Names of its model and its call, in a process of its own."""
    code = (
        "import dataclasses, inspect; from sky import models; from sky.client import sdk;"
        "names = {f.name for f in dataclasses.fields(models.KubernetesNodeInfo)};"
        "assert names >= {'accelerator_type','total','cpu_count','memory_gb','is_ready','is_cordoned'}, names;"
        "assert 'context' in inspect.signature(sdk.kubernetes_node_info).parameters"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_a_file_with_prices_is_never_written_over(tmp_path: Path) -> None:
    mine = tmp_path / "my.csv"
    mine.write_text("prices of mine")
    done = melange_sky("prices", "cluster", "-o", str(mine))
    assert done.returncode == 2 and "is there already" in done.stderr
    assert mine.read_text() == "prices of mine"


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    """Without a kubeconfig, or where no API server can be started: exit 4, no file."""
    out = tmp_path / "my.csv"
    done = melange_sky(
        "prices",
        "cluster",
        "-o",
        str(out),
        HOME=str(tmp_path),
        SKYPILOT_API_SERVER_ENDPOINT="http://127.0.0.1:9",
    )
    assert done.returncode == 4
    assert done.stderr.startswith("error: SkyPilot cannot see the cluster of the current context: ")
    assert done.stderr.count("\n") == 1 and not out.exists()
