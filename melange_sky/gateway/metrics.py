"""Prometheus metrics of the gateway, by model plan, option and bucket. Sizes and times, no content."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from melange_sky.workload import Workload

_TIMES_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 25, 50, 100, 200, 400)
_ADDED_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10)


class Metrics:
    """All metrics in a registry of their own, so that several gateways fit in one process."""

    def __init__(self) -> None:
        """Register them."""
        self.registry = registry = CollectorRegistry(auto_describe=True)
        where = ("plan", "option")
        self.requests = Counter(
            "melange_gateway_requests_total",
            "Requests that a replica finished, by the bucket they turned out to be in.",
            (*where, "input_bucket", "output_bucket"),
            registry=registry,
        )
        self.answers = Counter(
            "melange_gateway_answers_total",
            "Answers by HTTP status; 499: the client left; 'broken': the replica died mid-stream.",
            ("plan", "status"),
            registry=registry,
        )
        self.decisions = Counter(
            "melange_gateway_decisions_total",
            "Routing decisions: by plan, spilled in a burst, failover, or to an option not fit for it.",
            (*where, "reason"),
            registry=registry,
        )
        self.failures = Counter(
            "melange_gateway_attempt_failures_total",
            "Attempts at a replica that failed, retried elsewhere or not.",
            (*where, "kind"),
            registry=registry,
        )
        self.tokens = Counter(
            "melange_gateway_tokens_total",
            "Tokens as replicas counted them.",
            (*where, "kind"),
            registry=registry,
        )
        self.ttft_s = Histogram(
            "melange_gateway_time_to_first_byte_seconds",
            "Arrival to first byte of the answer.",
            where,
            buckets=_TIMES_S,
            registry=registry,
        )
        self.e2e_s = Histogram(
            "melange_gateway_request_seconds",
            "Arrival to last byte of the answer.",
            where,
            buckets=_TIMES_S,
            registry=registry,
        )
        self.added_s = Histogram(
            "melange_gateway_before_sending_seconds",
            "Time in the gateway, its queue included, before a request is sent to a replica.",
            buckets=_ADDED_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "melange_gateway_in_flight", "Requests at replicas now.", where, registry=registry
        )
        self.healthy = Gauge(
            "melange_gateway_healthy_backends", "Healthy backends.", where, registry=registry
        )
        self.planned_rps = Gauge(
            "melange_gateway_planned_rps",
            "Planned request rate.",
            (*where, "input_bucket", "output_bucket"),
            registry=registry,
        )
        self.queued = Gauge(
            "melange_gateway_queued",
            "Requests waiting for a free replica.",
            ("plan",),
            registry=registry,
        )
        self.reloads = Counter(
            "melange_gateway_reloads_total",
            "Reloads of plan or backends.",
            ("result",),
            registry=registry,
        )

    def text(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)


def bucket_labels(workload: Workload) -> tuple[list[str], list[str]]:
    """Return the names of input and output buckets, such as ``25-100``."""
    return _names(workload.input_edges), _names(workload.output_edges)


def _names(edges: tuple[int, ...]) -> list[str]:
    return [f"{low}-{high}" for low, high in itertools.pairwise(edges)]
