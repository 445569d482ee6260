"""The rate search against closed forms: M/M/1, M/D/1 and a batch whose step grows with its size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.capacity_search import (
    Probe,
    ProbeAborted,
    ProbeVerdict,
    SearchOptions,
    find_max_rate,
    judge,
    probe_statistics,
)
from melange_sky.slo import SLO, RequestLog


def make_log(arrival_s, first_s, last_s, output_tokens=32, ok=None) -> RequestLog:
    n = len(arrival_s)
    return RequestLog(
        arrival_s=np.asarray(arrival_s, dtype=float),
        input_tokens=np.full(n, 100),
        output_tokens=np.full(n, output_tokens),
        first_token_s=np.asarray(first_s, dtype=float),
        last_token_s=np.asarray(last_s, dtype=float),
        ok=np.ones(n, dtype=bool) if ok is None else ok,
        option=np.full(n, -1),
    )


@dataclass
class Queue:
    """One server, first come first served; TTFT is the sojourn time. Service of mean `mean_s`."""

    mean_s: float
    random_service: bool = False
    calls: list[tuple[float, int]] = field(default_factory=list)

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        self.calls.append((rate_rps, requests))
        rng = np.random.default_rng(seed)
        arrival = np.cumsum(rng.exponential(1 / rate_rps, requests))
        service = np.full(requests, self.mean_s)
        if self.random_service:
            service = rng.exponential(self.mean_s, requests)
        end, free = np.empty(requests), 0.0
        for i in range(requests):
            free = max(free, arrival[i]) + service[i]
            end[i] = free
        return make_log(arrival, end, end, output_tokens=1)


@dataclass
class Batch:
    """Infinitely many slots; a token takes base_s × (1 + slope × requests in flight at arrival)."""

    base_s: float = 0.01
    per_request_s: float = 0.0005
    tokens: int = 33

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        rng = np.random.default_rng(seed)
        arrival = np.cumsum(rng.exponential(1 / rate_rps, requests))
        last: list[float] = []
        for t in arrival:
            flight = sum(1 for end in last[-400:] if end > t)
            last.append(t + self.tokens * (self.base_s + self.per_request_s * flight))
        end = np.array(last)
        return make_log(arrival, arrival + (end - arrival) / self.tokens, end, self.tokens)


def md1_sojourn_probability(rate: float, service: float, limit: float) -> float:
    """P(wait + service ≤ limit) of M/D/1, Erlang's alternating series (A. K. Erlang, 1909)."""
    wait = limit - service
    if wait < 0:
        return 0.0
    total = 0.0
    for k in range(int(wait / service) + 1):
        x = rate * (k * service - wait)
        total += x**k / math.factorial(k) * math.exp(-x)
    return (1 - rate * service) * total


def md1_max_rate(service: float, limit: float, attainment: float) -> float:
    low, high = 0.0, 1 / service
    for _ in range(60):
        mid = (low + high) / 2
        if md1_sojourn_probability(mid, service, limit) >= attainment:
            low = mid
        else:
            high = mid
    return low


FINE = SearchOptions(
    tolerance=0.02,
    max_requests=40_000,
    min_requests=200,
    confirm_requests=20_000,
    floor_rps=0.01,
    max_probes=80,
)


@pytest.mark.parametrize("start", [None, 1.0, 500.0])
def test_mm1_matches_the_closed_form(start: float | None) -> None:
    """Sojourn of M/M/1 is exponential with rate μ − λ, so λ* = μ − ln(1/(1−a))/t."""
    mu, limit, attainment = 20.0, 0.5, 0.95
    truth = mu - math.log(1 / (1 - attainment)) / limit
    slo = SLO(ttft_s=limit, attainment=attainment)
    options = replace(FINE, start_rps=start)
    result = find_max_rate(Queue(1 / mu, random_service=True), slo, options)
    assert result.max_rate_rps == pytest.approx(truth, rel=0.05), result


@pytest.mark.parametrize("limit", [0.12, 0.2, 0.6])
@pytest.mark.parametrize("attainment", [0.9, 0.99])
def test_md1_matches_the_closed_form(limit: float, attainment: float) -> None:
    truth = md1_max_rate(0.1, limit, attainment)
    result = find_max_rate(Queue(0.1), SLO(ttft_s=limit, attainment=attainment), FINE)
    # At 0.99 attainment falls by 0.001 over 10 % of the rate: the flattest curve of all.
    near = 0.05 if attainment < 0.99 else 0.1
    assert result.max_rate_rps == pytest.approx(truth, rel=near), (truth, result.reason)


def test_batch_of_growing_step() -> None:
    """In flight L = λ·n·(w + h·L), so the mean TPOT w + h·L equals w / (1 − λ·n·h)."""
    batch = Batch()
    limit = 0.02
    mean_truth = (1 - batch.base_s / limit) / (batch.tokens * batch.per_request_s)
    slo = SLO(
        tpot_s=limit * batch.tokens / (batch.tokens - 1) * (batch.tokens - 1) / batch.tokens,
        attainment=0.5,
    )
    result = find_max_rate(batch, slo, SearchOptions(tolerance=0.02, max_requests=4000))
    assert result.max_rate_rps == pytest.approx(mean_truth, rel=0.08)


def test_short_probe_above_capacity_does_not_pass() -> None:
    """40 requests at twice the capacity all meet a loose limit: the queue had no time to grow."""
    log = Queue(0.1).probe(20.0, 40, seed=3)
    slo = SLO(ttft_s=60.0)
    probe = judge(log, slo, SearchOptions(), rate_rps=20.0, seed=3)
    assert probe.attainment == 1.0
    assert probe.verdict is not ProbeVerdict.PASS
    result = find_max_rate(Queue(0.1), slo, SearchOptions(start_rps=20.0))
    assert result.max_rate_rps is not None
    assert 9.0 <= result.max_rate_rps <= 10.0 / 0.9


def test_a_burst_into_an_empty_batch_does_not_pass() -> None:
    """Everything fits in flight at once: too short to tell, whatever the limits."""
    arrival = np.arange(80) * 1e-3
    log = make_log(arrival, arrival + 0.01, arrival + 5.0)
    probe = judge(log, SLO(tpot_s=1.0), SearchOptions(), rate_rps=1000.0, seed=0)
    assert probe.verdict is ProbeVerdict.UNRESOLVED
    assert "latencies" in probe.reason


def test_unloaded_miss_gives_none_with_a_reason() -> None:
    target = Queue(0.5)
    result = find_max_rate(target, SLO(ttft_s=0.4), SearchOptions())
    assert result.max_rate_rps is None
    assert result.resolved
    assert "even" in result.reason
    assert "attainment 0.000" in result.reason
    assert len(result.probes) <= 5
    assert sum(n for _, n in target.calls) < 500


def test_ceiling_and_floor_are_respected() -> None:
    fast = Queue(1e-6)
    result = find_max_rate(fast, SLO(ttft_s=1.0), SearchOptions(start_rps=1.0, ceiling_rps=64.0))
    assert result.max_rate_rps == 64.0
    assert "ceiling" in result.reason
    slow = Queue(10.0)
    options = SearchOptions(start_rps=64.0, floor_rps=2.0, ceiling_rps=64.0)
    result = find_max_rate(slow, SLO(ttft_s=11.0), options)
    assert result.max_rate_rps is None
    assert min(rate for rate, _ in slow.calls) == 2.0


def test_all_failed_requests_end_the_search() -> None:
    class Dead:
        def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
            nan = np.full(requests, np.nan)
            return make_log(np.arange(requests) / rate_rps, nan, nan, ok=np.zeros(requests, bool))

    result = find_max_rate(Dead(), SLO(ttft_s=1.0), SearchOptions(start_rps=8.0))
    assert result.max_rate_rps is None
    assert "no request completed" in result.reason


def test_void_probes_never_become_a_bound() -> None:
    inner = Queue(0.1)

    class LateClient:
        """The client cannot send more than 4 requests a second."""

        def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
            if rate_rps > 4.0:
                raise ProbeAborted("client was late")
            return inner.probe(rate_rps, requests, seed)

    result = find_max_rate(LateClient(), SLO(ttft_s=0.5), SearchOptions(start_rps=2.0))
    assert result.max_rate_rps == 4.0
    assert not result.resolved
    assert result.high_rps is None
    assert "client was late" in result.reason
    assert [p.verdict for p in result.probes].count(ProbeVerdict.ABORTED) == 3


def test_errors_count_as_misses() -> None:
    class Flaky:
        def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
            arrival = np.arange(requests) / rate_rps
            ok = np.arange(requests) % 5 != 0
            end = np.where(ok, arrival + 0.01, np.nan)
            return make_log(arrival, end, end, ok=ok)

    result = find_max_rate(Flaky(), SLO(ttft_s=1.0, attainment=0.9), SearchOptions(start_rps=8.0))
    assert result.max_rate_rps is None
    loose = find_max_rate(
        Flaky(), SLO(ttft_s=1.0, attainment=0.7), SearchOptions(start_rps=8.0, ceiling_rps=64.0)
    )
    assert loose.max_rate_rps == 64.0


def test_judging_does_not_depend_on_the_clock_origin() -> None:
    log = Queue(0.1).probe(7.0, 600, seed=1)
    moved = make_log(log.arrival_s + 1e5, log.first_token_s + 1e5, log.last_token_s + 1e5, 1)
    slo = SLO(ttft_s=0.3)
    first = judge(log, slo, SearchOptions(), rate_rps=7.0, seed=1)
    second = judge(moved, slo, SearchOptions(), rate_rps=7.0, seed=1)
    assert (first.verdict, first.attainment) == (second.verdict, second.attainment)
    assert (
        judge(log.select(log.arrival_s < 0), slo, SearchOptions(), rate_rps=1.0, seed=0).judged == 0
    )


def test_same_seed_same_result() -> None:
    slo = SLO(ttft_s=0.3)
    assert find_max_rate(Queue(0.1), slo, FINE) == find_max_rate(Queue(0.1), slo, FINE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance": 0.0},
        {"min_requests": 0},
        {"min_requests": 10, "max_requests": 5},
        {"floor_rps": 0.0},
        {"floor_rps": 20.0, "ceiling_rps": 10.0},
        {"growth": 1.0},
        {"start_rps": -1.0},
        {"start_rps": 20.0, "ceiling_rps": 10.0},
        {"max_probes": 0},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"need|must|lie"):
        SearchOptions(**wrong)  # type: ignore[arg-type]


@settings(max_examples=15, deadline=None)
@given(
    limit=st.floats(0.15, 2.0), factor=st.floats(1.3, 4.0), attainment=st.sampled_from([0.8, 0.95])
)
def test_a_looser_limit_is_never_lower(limit: float, factor: float, attainment: float) -> None:
    options = SearchOptions(min_requests=100, max_requests=3000)
    tight = find_max_rate(Queue(0.1), SLO(ttft_s=limit, attainment=attainment), options)
    loose = find_max_rate(Queue(0.1), SLO(ttft_s=limit * factor, attainment=attainment), options)
    assert tight.max_rate_rps is not None
    assert loose.max_rate_rps is not None
    assert loose.max_rate_rps >= tight.max_rate_rps * 0.9


@settings(max_examples=25, deadline=None)
@given(
    coin=st.floats(0.0, 1.0),
    start=st.one_of(st.none(), st.floats(0.01, 1e4)),
    attainment=st.sampled_from([0.5, 0.95, 1.0]),
    garbage=st.booleans(),
)
def test_it_always_ends(coin: float, start: float | None, attainment: float, garbage: bool) -> None:
    """Outcomes by coin toss, whatever the rate: the search stays within its probe budget."""

    class Coin:
        def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
            rng = np.random.default_rng(seed)
            arrival = np.cumsum(rng.exponential(1 / rate_rps, requests))
            end = arrival + np.where(rng.random(requests) < coin, 0.1, 9.0)
            if garbage:
                end[rng.random(requests) < 0.5] = np.nan
            return make_log(arrival, end, end)

    options = SearchOptions(start_rps=start, max_probes=12, max_requests=400)
    result = find_max_rate(Coin(), SLO(ttft_s=1.0, attainment=attainment), options)
    assert 1 <= len(result.probes) <= 12
    assert result.reason
    rates = [p.rate_rps for p in result.probes if p.verdict is ProbeVerdict.PASS]
    assert result.low_rps == (max(rates) if rates else None)
    assert all(isinstance(p, Probe) and 0 < p.rate_rps <= 1e4 for p in result.probes)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=70))
def test_what_is_quick_of_a_probe_is_what_numpy_says(seconds: list[float]) -> None:
    values = np.array(seconds)
    good = values > values.mean()
    assert probe_statistics.median(values) == float(np.median(values))
    assert probe_statistics.fraction(good) == float(good.mean())
    batches, p = min(16, len(good) // 8), good.mean()
    if batches >= 4 and 0 < p < 1:
        size = len(good) // batches
        means = good[: batches * size].reshape(batches, size).mean(axis=1)
        effect = size * means.var(ddof=1) / (p * (1 - p))
        assert probe_statistics.effective_size(good) == len(good) / max(1.0, effect)
