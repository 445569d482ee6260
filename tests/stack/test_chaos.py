"""A minute and a half of everything at once; `make chaos` is the same for half an hour and 50,000 requests."""

from __future__ import annotations

import asyncio

import pytest

from tests.stack.chaos import Chaos

pytestmark = [pytest.mark.stack, pytest.mark.timeout(500)]


def test_a_minute_and_a_half_of_chaos_loses_no_good_request_and_leaves_nothing() -> None:
    report = asyncio.run(Chaos(seconds=90.0, rate_rps=28.0).run())
    print(report)
    assert report.lost == 0, report.good
    assert report.good["served"] > 1500
    assert report.good["cut"] <= report.broke  # the gateway cuts no stream that its replica did not
    assert report.broke < 0.1 * sum(report.good.values())
    assert "Traceback" not in report.log
    quarter = report.memory_mib[len(report.memory_mib) // 4]
    assert report.memory_mib[-1] < quarter + 15
    assert report.files[-1] <= report.files[0] + 5
    assert report.metrics_bytes < 100_000
