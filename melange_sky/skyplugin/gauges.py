"""The fleets as gauges on the API server's own /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from melange_sky.skyplugin.routes import Board


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
        """Yield dollars per hour and replicas, planned and live, and the age of the oldest price."""
        dollars = GaugeMetricFamily(
            "melange_fleet_usd_per_hour",
            "Dollars per hour of a fleet at its plan's prices.",
            labels=("fleet", "state"),
        )
        replicas = GaugeMetricFamily(
            "melange_fleet_replicas",
            "Replicas of an option: planned, and live by state.",
            labels=("fleet", "model", "option", "state"),
        )
        ages = GaugeMetricFamily(
            "melange_fleet_price_age_days",
            "Days since the oldest price of a fleet's plan was last known true.",
            labels=("fleet",),
        )
        for fleet in self._board.document()["fleets"]:
            name = f"{fleet['name']}/{fleet['id']}"
            for state in ("planned", "live"):
                if fleet[f"{state}_usd_per_hour"] is not None:
                    dollars.add_metric((name, state), fleet[f"{state}_usd_per_hour"])
            if fleet["prices"]["oldest_age_days"] is not None:
                ages.add_metric((name,), fleet["prices"]["oldest_age_days"])
            for model in fleet["models"]:
                for row in model["options"]:
                    counts = {"planned": row["planned_replicas"], **(row["live_replicas"] or {})}
                    for state, count in counts.items():
                        replicas.add_metric((name, model["name"], row["option"], state), count)
        yield from (dollars, replicas, ages)
