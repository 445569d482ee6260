"""The fleets as gauges on the API server's own /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from melange_sky.skyplugin.routes import Board


_GAUGES = {
    "usd_per_hour": ("Dollars per hour of a fleet at its plan's prices.", ("state",)),
    "replicas": (
        "Replicas of an option: planned, and live by state.",
        ("model", "option", "state"),
    ),
    "price_age_days": ("Days since the oldest price of a fleet's plan was last known true.", ()),
    "observed_requests_per_second": (
        "Requests that a fleet's gateways were asked for, the mean since they were looked at before.",
        ("model",),
    ),
    "observed_attainment": (
        "Part of the streamed answers within the plan's limits, of the same time.",
        ("model",),
    ),
    "observed_load": (
        "Observed rate of an option over the capacity of its ready replicas.",
        ("model", "option"),
    ),
}
"""What is shown of a fleet, by the end of its name, and its labels besides the fleet's."""


class FleetGauges:
    """A collector; SkyPilot keeps it from hanging a scrape and serves its last values meanwhile.

    A figure that is not known has no sample: an absent series, not a zero.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def describe(self) -> list[Metric]:
        """Return nothing: asking SkyServe at registration would hold up the server's start."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield dollars and replicas, planned and live, the age of the oldest price, and what gateways saw."""
        families = {
            name: GaugeMetricFamily(f"melange_fleet_{name}", text, labels=("fleet", *labels))
            for name, (text, labels) in _GAUGES.items()
        }
        for fleet in self._board.document()["fleets"]:
            for name, labels, value in _figures(fleet):
                if value is not None:
                    families[name].add_metric((f"{fleet['name']}/{fleet['id']}", *labels), value)
        yield from families.values()


def _figures(fleet: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...], float | None]]:
    """Yield a fleet's figures: which gauge, its labels besides the fleet's, and the value, None for unknown."""
    for state in ("planned", "live"):
        yield "usd_per_hour", (state,), fleet[f"{state}_usd_per_hour"]
    yield "price_age_days", (), fleet["prices"]["oldest_age_days"]
    for model in fleet["models"]:
        seen = model["observed"] or {}
        yield "observed_requests_per_second", (model["name"],), seen.get("rate_rps")
        yield "observed_attainment", (model["name"],), seen.get("attainment")
        for row in model["options"]:
            place = (model["name"], row["option"])
            yield "observed_load", place, row["observed_load"]
            counts = {"planned": row["planned_replicas"], **(row["live_replicas"] or {})}
            for state, count in counts.items():
                yield "replicas", (*place, state), count
