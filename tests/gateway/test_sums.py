"""Plain sums come out as prometheus_client's own metrics of the same events do."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from melange_sky.gateway.metrics import Metrics
from melange_sky.gateway.sums import Counts, Levels, Times

BOUNDS_S = (0.1, 0.5, 2, 10)


class Shown(Collector):
    def __init__(self, *families: Metric) -> None:
        self.families = families

    def collect(self) -> tuple[Metric, ...]:
        return self.families


def lines(registry: CollectorRegistry) -> list[str]:
    text = generate_latest(registry).decode()
    return [line for line in text.splitlines() if "_created" not in line]


def test_sums_show_as_the_librarys_own_metrics_do() -> None:
    rng = random.Random(3)
    own = Counts("a", "A.", ["x", "y"]), Levels("b", "B.", ["x"]), Times("c", "C.", ["x"], BOUNDS_S)
    registry = CollectorRegistry()
    counter = Counter("a", "A.", ["x", "y"], registry=registry)
    gauge = Gauge("b", "B.", ["x"], registry=registry)
    histogram = Histogram("c", "C.", ["x"], buckets=BOUNDS_S, registry=registry)
    for _ in range(300):
        x, y, amount = rng.choice("pq"), rng.choice('r"\n'), rng.randrange(1, 5)
        seconds = rng.choice([*BOUNDS_S, 0.0, 0.3, 50.0])  # an end belongs to its bucket
        own[0].add(x, y, amount=amount)
        counter.labels(x, y).inc(amount)
        own[1].add(x, amount=amount - 2)
        gauge.labels(x).inc(amount - 2)
        own[2].observe(seconds, x)
        histogram.labels(x).observe(seconds)
    shown = CollectorRegistry()
    shown.register(Shown(*(each.family() for each in own)))
    assert sorted(lines(shown)) == sorted(lines(registry))


def test_a_histogram_without_labels_is_there_before_the_first_request() -> None:
    text = Metrics().text().decode()
    assert "melange_gateway_before_sending_seconds_count 0.0" in text
    assert "melange_gateway_requests_total{" not in text
