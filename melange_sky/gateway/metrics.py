"""Prometheus metrics of the gateway, by model plan, option and bucket. Sizes and times, no content."""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from melange_sky.gateway.sums import Counts, Levels, Readings, Times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.core import Metric

    from melange_sky.gateway.siblings import Gathered
    from melange_sky.gateway.sums import Rows
    from melange_sky.workload import Workload

_OPTION = ("plan", "option")
_BUCKET = ("input_bucket", "output_bucket")
_TIMES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 25, 50, 100, 200, 400)
_ADDED_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10)


def of_all(gathered: Gathered, count: int) -> Metrics:
    """Return the metrics of `count` workers together, with how many of them answered."""
    whole = Metrics()
    answered = whole.gauge_of_workers()
    answered.set("all", value=count)
    answered.set("answered", value=len(gathered.live))
    for state in gathered.live:
        whole.merge(state["sums"])
    for state in gathered.past:
        whole.merge(state["sums"], past=True)
    return whole


class Metrics(Collector):
    """All metrics of one gateway."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._all: list[Counts | Times] = []
        self._register_requests()
        self._register_times()
        self._register_state()

    def _register_requests(self) -> None:
        self.requests = self._counter(
            "requests",
            "Requests that a replica finished, by the bucket they turned out to be in.",
            *_OPTION,
            *_BUCKET,
        )
        self.answers = self._counter(
            "answers",
            "Answers by HTTP status; 499: the client left; 'broken': the replica died mid-stream.",
            "plan",
            "status",
        )
        self.slo = self._counter(
            "slo",
            "Streamed answers within the plan's limits of TTFT and TPOT (met), or not (missed).",
            *_OPTION,
            "result",
        )
        self.decisions = self._counter(
            "decisions",
            "Routing decisions: by plan, spilled in a burst, failover, or to an option not fit for it.",
            *_OPTION,
            "reason",
        )
        self.affinity = self._counter(
            "affinity",
            "Requests of sessions: a session's first; at the replica of the one before (hit); at another, as "
            "its home held too much (spilled) or its home changed (moved).",
            *_OPTION,
            "result",
        )
        self.failures = self._counter(
            "attempt_failures",
            "Attempts at a replica that failed, retried elsewhere or not.",
            *_OPTION,
            "kind",
        )
        self.tokens = self._counter(
            "tokens",
            "Tokens as replicas counted them; cached: those of prompts found in their caches.",
            *_OPTION,
            "kind",
        )
        self.replica_prefix = Readings(
            "melange_gateway_replica_prefix_tokens",
            "Prompt tokens that a replica looked for in its prefix cache (asked) and found there (found), by its own "
            "count since the gateway first looked.",
            (*_OPTION, "replica", "kind"),
        )
        self._all.append(self.replica_prefix)
        self.reloads = self._counter("reloads", "Reloads of plan or backends.", "result")

    def _register_times(self) -> None:
        self.ttft_s = self._histogram(
            "time_to_first_byte", "Arrival to first byte of the answer.", _TIMES_S, *_OPTION
        )
        self.e2e_s = self._histogram(
            "request", "Arrival to last byte of the answer.", _TIMES_S, *_OPTION
        )
        self.added_s = self._histogram(
            "before_sending",
            "Time in the gateway, its queue included, before a request is sent to a replica.",
            _ADDED_S,
        )

    def _register_state(self) -> None:
        self.in_flight = self._gauge("in_flight", "Requests at replicas now.", *_OPTION)
        self.healthy = self._gauge("healthy_backends", "Healthy backends.", *_OPTION, together=min)
        self.planned_rps = self._gauge(
            "planned_rps", "Planned request rate.", *_OPTION, *_BUCKET, together=max
        )
        self.queued = self._gauge("queued", "Requests waiting for a free replica.", "plan")

    def gauge_of_workers(self) -> Levels:
        """Add a gauge of how many workers there are and answered."""
        return self._gauge("workers", "Workers whose numbers these are: answered, of all.", "which")

    def _counter(self, name: str, meaning: str, *labels: str) -> Counts:
        counts = Counts(f"melange_gateway_{name}", meaning, labels)
        self._all.append(counts)
        return counts

    def _gauge(
        self,
        name: str,
        meaning: str,
        *labels: str,
        together: Callable[[float, float], float] = operator.add,
    ) -> Levels:
        levels = Levels(f"melange_gateway_{name}", meaning, labels, together)
        self._all.append(levels)
        return levels

    def _histogram(
        self, name: str, meaning: str, bounds_s: tuple[float, ...], *labels: str
    ) -> Times:
        times = Times(f"melange_gateway_{name}_seconds", meaning, labels, bounds_s)
        self._all.append(times)
        return times

    def state(self) -> dict[str, Rows]:
        """Return all numbers by the metric's name, as JSON takes them."""
        return {each.name: each.state() for each in self._all}

    def merge(self, state: Mapping[str, Rows], *, past: bool = False) -> None:
        """Take in the `state` of another worker; of one that is `past`, what only grows."""
        for each in self._all:
            if not (past and isinstance(each, Levels)):
                each.merge(state.get(each.name, []))

    def collect(self) -> Iterable[Metric]:
        """Return all as Prometheus knows them."""
        return [each.family() for each in self._all]

    def text(self) -> bytes:
        """Return the exposition text."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)


def bucket_labels(workload: Workload) -> tuple[list[str], list[str]]:
    """Return the names of input and output buckets, such as ``25-100``."""
    return _names(workload.input_edges), _names(workload.output_edges)


def _names(edges: tuple[int, ...]) -> list[str]:
    return [f"{low}-{high}" for low, high in itertools.pairwise(edges)]
