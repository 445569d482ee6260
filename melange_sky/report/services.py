"""How a plan's services are shown: what would change, and how they stand."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.skyserve import ServiceChange, ServiceState


class BucketView(Protocol):
    """One bucket's traffic, see `planner.observed.BucketTraffic`."""

    @property
    def bucket(self) -> str: ...
    @property
    def planned_rps(self) -> float: ...
    @property
    def seen_rps(self) -> float: ...


class TrafficView(Protocol):
    """Seen against planned traffic, see `planner.observed.ObservedTraffic`."""

    @property
    def buckets(self) -> Sequence[BucketView]: ...
    @property
    def cost_usd_per_hour(self) -> float: ...
    @property
    def least_usd_per_hour(self) -> float | None: ...
    @property
    def replan(self) -> bool: ...
    @property
    def verdict(self) -> str: ...


class StatusView(Protocol):
    """How a plan's services stand, see `planner.apply.DeploymentStatus`."""

    @property
    def services(self) -> Sequence[ServiceState]: ...
    @property
    def traffic(self) -> TrafficView | None: ...


def changes_text(changes: Sequence[ServiceChange]) -> str:
    """Return one line per service, before and after, and what all cost together."""
    lines = [_change_line(change) for change in changes]
    before = [c.cost_before_usd_per_hour for c in changes]
    whole = None if None in before else sum(cost for cost in before if cost is not None)
    after = sum(c.cost_after_usd_per_hour for c in changes)
    lines.append(f"total {_usd(whole)} → {_usd(after)}, at the plan's prices")
    return "\n".join(lines) + "\n"


def _change_line(change: ServiceChange) -> str:
    cost = f"{_usd(change.cost_before_usd_per_hour)} → {_usd(change.cost_after_usd_per_hour)}"
    why = f"  ({change.reason})" if change.reason else ""
    return f"{change.action.value:8} {change.name}: {change.before} → {change.after}, {cost}{why}"


def _usd(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:,.3f}/h"


def states_text(states: Sequence[ServiceState]) -> str:
    """Return each planned service and its replicas, a line each."""
    lines = []
    for state in states:
        place = state.endpoint or "no endpoint yet"
        lines.append(
            f"{state.service}: {state.ready} of {state.planned}{_to(state)} ready ({state.status}), {place}"
        )
        lines += [f"  {r.id}: {r.status} {r.endpoint or ''}".rstrip() for r in state.replicas]
    return "".join(f"{line}\n" for line in lines)


def _to(state: ServiceState) -> str:
    return "" if state.most is None else f" to {state.most}"


def status_document(standing: StatusView) -> dict[str, Any]:
    """Return the services, and the traffic where it was observed, for `status --format json`."""
    document: dict[str, Any] = {"services": [asdict(state) for state in standing.services]}
    if standing.traffic is not None:
        document["traffic"] = _traffic_document(standing.traffic)
    return document


def _traffic_document(traffic: TrafficView) -> dict[str, Any]:
    return {
        "buckets": [
            {"bucket": b.bucket, "planned_rps": b.planned_rps, "seen_rps": b.seen_rps}
            for b in traffic.buckets
        ],
        "cost_usd_per_hour": traffic.cost_usd_per_hour,
        "least_usd_per_hour": traffic.least_usd_per_hour,
        "replan": traffic.replan,
        "verdict": traffic.verdict,
    }


def status_text(standing: StatusView) -> str:
    """Return each planned service as it stands, and the traffic where it was observed."""
    traffic = "" if standing.traffic is None else traffic_text(standing.traffic)
    return states_text(standing.services) + traffic


def traffic_text(traffic: TrafficView) -> str:
    """Return planned and seen rates bucket by bucket, and the verdict."""
    lines = [
        f"{b.bucket}: planned {b.planned_rps:.3g}, seen {b.seen_rps:.3g} req/s"
        for b in traffic.buckets
    ]
    return "\n".join([*lines, traffic.verdict]) + "\n"
