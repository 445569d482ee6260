"""How many reserved nodes are free now, asked of SkyPilot as its optimizer asks, in a process of its own.

Run as ``python -m melange_sky.skyserve.free_nodes``: places as a list, one answer each. SkyPilot asks the
cloud: AWS by `DescribeCapacityReservations`, GCP by ``gcloud compute reservations list``; which of a zone's
reservations count is its own code's to say (`Resources.get_reservations_available_resources`).
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from melange_sky.skyserve.child import SkyProcess, answer, read_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

DEADLINE_S = 60.0
"""SkyPilot's import takes 2 to 11 s, a describe call of AWS half a second, gcloud 3 s an instance type."""

_CALLS_AT_ONCE = {"aws": 8}
"""GCP's answers are kept for one instance type at a time (`gcp_utils`): several at once would ask anew for
every zone."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Sold:
    """An instance type as a region sells it."""

    cloud: str
    instance_type: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeNodes:
    """The free nodes of a type in one zone, by the reservation that holds them."""

    sold: Sold
    zone: str
    nodes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeNodesFound:
    """What SkyPilot said: free nodes, and by cloud why anything of it could not be asked."""

    free: tuple[FreeNodes, ...]
    failures: tuple[tuple[str, str], ...]


def ask_free_nodes(places: Iterable[Sold], deadline_s: float = DEADLINE_S) -> FreeNodesFound:
    """Return the reserved nodes that are free now of instance types in their regions."""
    asked = sorted(set(places))
    process = SkyProcess.start(__name__, [asdict(place) for place in asked])
    if process is None:
        return FreeNodesFound(
            free=(), failures=tuple((p.cloud, "no process could be started") for p in asked[:1])
        )
    try:
        answers, ended = process.answers(deadline_s)
    except BaseException:
        process.stop()
        raise
    free: list[FreeNodes] = []
    failures: dict[str, str] = {}
    open_places = set(asked)
    for said in answers:
        sold = Sold(**said["sold"])
        open_places.discard(sold)
        if said["error"] is not None:
            failures.setdefault(sold.cloud, said["error"])
        for zone, nodes in said["zones"].items():
            held = tuple(sorted((name, count) for name, count in nodes.items() if count > 0))
            if held:
                free.append(FreeNodes(sold=sold, zone=zone, nodes=held))
    late = f"no answer within {deadline_s:g} s" if not ended else "no answer"
    for sold in sorted(open_places):
        failures.setdefault(sold.cloud, f"{late} for {sold.instance_type} in {sold.region}")
    return FreeNodesFound(free=tuple(free), failures=tuple(sorted(failures.items())))


def _zones_of(sold: Sold) -> dict[str, dict[str, int]]:
    """Return the free nodes by zone and reservation, as SkyPilot counts them."""
    import sky
    from sky import catalog

    found = {}
    regions = catalog.get_region_zones_for_instance_type(
        sold.instance_type, use_spot=False, clouds=sold.cloud
    )
    for region in regions:
        if region.name != sold.region:
            continue
        for zone in region.zones or ():
            resources = sky.Resources(
                infra=f"{sold.cloud}/{sold.region}/{zone.name}", instance_type=sold.instance_type
            )
            found[zone.name] = resources.get_reservations_available_resources()
    return found


def _answered(sold: Sold) -> dict[str, Any]:
    error = None
    zones: dict[str, dict[str, int]] = {}
    try:
        zones = _zones_of(sold)
    except (Exception, SystemExit) as failure:  # noqa: BLE001 - whatever a cloud's library raises is its answer
        error = " ".join(str(failure).split())[:200] or type(failure).__name__
    return {"sold": asdict(sold), "zones": zones, "error": error}


def _answer_all(places: Iterable[Sold]) -> None:
    for sold in places:
        answer(_answered(sold))


def _tasks(places: Sequence[Sold]) -> Iterator[list[Sold]]:
    """Yield what one thread asks in turn: the regions of one instance type, which are answered alike."""
    for _, same in groupby(places, key=lambda place: (place.cloud, place.instance_type)):
        yield list(same)


def main() -> None:
    """Answer for the places of the request."""
    by_cloud: dict[str, list[Sold]] = defaultdict(list)
    for place in sorted(Sold(**fields) for fields in read_request()):
        by_cloud[place.cloud].append(place)
    pools = {
        cloud: ThreadPoolExecutor(max_workers=_CALLS_AT_ONCE.get(cloud, 1)) for cloud in by_cloud
    }
    for cloud, places in by_cloud.items():
        for task in _tasks(places):
            pools[cloud].submit(_answer_all, task)
    for pool in pools.values():
        pool.shutdown()


if __name__ == "__main__":
    main()
