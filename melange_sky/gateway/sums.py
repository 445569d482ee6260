"""Numbers that requests add to: plain sums by labels, made Prometheus metrics only where somebody asks.

A request adds to a dozen of them; prometheus_client's own objects take a lock and check names each time.
"""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client.core import Metric

Labels = tuple[str, ...]
Rows = list[list[Any]]
"""Labels and a number, or the numbers of a histogram, each."""


class Counts:
    """Sums that only grow, by the values of their `labels`."""

    def __init__(self, name: str, meaning: str, labels: Sequence[str]) -> None:
        """Start with none."""
        self._name, self._meaning, self._labels = name, meaning, tuple(labels)
        self.values: defaultdict[Labels, float] = defaultdict(float)

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Add to the sum of some labels."""
        self.values[labels] += amount

    @property
    def name(self) -> str:
        """The metric's name."""
        return self._name

    def state(self) -> Rows:
        """Return all numbers as JSON takes them."""
        return [[list(labels), value] for labels, value in self.values.items()]

    def merge(self, rows: Rows) -> None:
        """Add another's `state`."""
        for labels, value in rows:
            self.values[tuple(labels)] += value

    def family(self) -> Metric:
        """Return all sums as a Prometheus counter."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Readings(Counts):
    """Sums that several workers read alike elsewhere: together they are the largest, not the sum."""

    def merge(self, rows: Rows) -> None:
        """Take another's `state` in."""
        for given, value in rows:
            labels = tuple(given)
            self.values[labels] = max(self.values[labels], value)


class Levels(Counts):
    """Numbers that go up and down; `together` makes one of two workers' numbers."""

    def __init__(
        self,
        name: str,
        meaning: str,
        labels: Sequence[str],
        together: Callable[[float, float], float] = operator.add,
    ) -> None:
        """Start with none."""
        super().__init__(name, meaning, labels)
        self._together = together

    def merge(self, rows: Rows) -> None:
        """Take another's `state` in."""
        for given, value in rows:
            labels = tuple(given)
            known = self.values.get(labels)
            self.values[labels] = value if known is None else self._together(known, value)

    def set(self, *labels: str, value: float) -> None:
        """Set the number of some labels."""
        self.values[labels] = value

    def family(self) -> Metric:
        """Return all numbers as a Prometheus gauge."""
        family = GaugeMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Times:
    """Histograms of seconds by the values of their `labels`; `bounds_s` are the buckets' upper ends."""

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str], bounds_s: Sequence[float]
    ) -> None:
        """Start with none; one without labels starts at zero."""
        self._name, self._meaning, self._labels = name, meaning, tuple(labels)
        self._bounds_s = tuple(bounds_s)
        self.values: dict[Labels, list[float]] = {}
        """Per labels: how many fell into each bucket, those beyond the last, and the sum in seconds."""
        if not labels:
            self._start(())

    def _start(self, labels: Labels) -> list[float]:
        self.values[labels] = [0.0] * (len(self._bounds_s) + 2)
        return self.values[labels]

    @property
    def name(self) -> str:
        """The metric's name."""
        return self._name

    def state(self) -> Rows:
        """Return all numbers as JSON takes them."""
        return [[list(labels), known] for labels, known in self.values.items()]

    def merge(self, rows: Rows) -> None:
        """Add another's `state`."""
        for given, numbers in rows:
            known = self.values.get(tuple(given)) or self._start(tuple(given))
            known[:] = map(operator.add, known, numbers)

    def observe(self, seconds: float, *labels: str) -> None:
        """Count a time."""
        known = self.values.get(labels) or self._start(labels)
        known[bisect_left(self._bounds_s, seconds)] += 1
        known[-1] += seconds

    def family(self) -> Metric:
        """Return all as a Prometheus histogram."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        ends = [*map(floatToGoString, self._bounds_s), "+Inf"]
        for labels, (*counts, total_s) in self.values.items():
            so_far = 0.0
            buckets = []
            for end, count in zip(ends, counts, strict=True):
                so_far += count
                buckets.append((end, so_far))
            family.add_metric(labels, buckets, total_s)
        return family
