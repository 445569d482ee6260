"""Constants learnt from counters, held against engines whose constants are known."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from melange_sky.engines import engine_named
from melange_sky.learning import Scrape, learn, windows_of
from melange_sky.learning.windows import CLOCK, FROZEN, MISSING, RESTARTED, pooled
from melange_sky.models import load_model
from melange_sky.profiles import ReplicaShape, engine_replica
from melange_sky.slo import SLO
from melange_sky.steps import ReplicaModel, RequestSizes, Scales, capacity_estimate
from tests.learning.scraped import changing, looks

LIMITS = SLO(tpot_s=0.06, ttft_s=2.0, attainment=0.95)
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
KINDS = ("L40S", "A100-80GB", "H100")
SIZES = ((800.0, 200.0), (2000.0, 100.0), (300.0, 400.0))
HOUR_S = 3600.0


def estimated(accelerator: str, model: str = MODEL) -> ReplicaModel:
    shape = ReplicaShape(accelerator=accelerator, tensor_parallel=1)
    generation = engine_named("vllm").generation_of(None)
    replica = engine_replica(load_model(model), shape, generation)
    assert isinstance(replica, ReplicaModel)
    return replica


def highest_rps(replica: ReplicaModel, input_tokens: float, output_tokens: float) -> float:
    load = RequestSizes(
        input_tokens=np.array([input_tokens]), output_tokens=np.array([output_tokens])
    )
    return float(capacity_estimate(replica, load, LIMITS).rate_rps[0])


def drawn(rng: np.random.Generator) -> Scales:
    """Constants that are off by a quarter, each for itself."""
    host, products, computing, cache = np.exp(rng.normal(0, 0.25, 4)).tolist()
    return Scales(host=host, products=products, computing=computing, cache=cache)


def watched(seed: int, load: float, seconds: float = HOUR_S / 2):
    """Half an hour of an engine under up to `load` of its highest rate: (estimate, truth, what was seen)."""
    rng = np.random.default_rng(seed)
    estimate = estimated(KINDS[seed % 3])
    sizes = SIZES[seed // 3 % 3]
    truth = drawn(rng).applied(estimate)
    stream = changing(rng, load * highest_rps(truth, *sizes), seconds, sizes)
    return estimate, truth, list(looks(truth, stream))


def test_half_an_hour_that_comes_near_the_ceiling_tells_it() -> None:
    near, covered = 0, 0
    for seed in range(12):
        estimate, truth, seen = watched(seed, 0.75)
        found = learn(estimate, windows_of(seen), LIMITS)
        true_rps = highest_rps(truth, found.input_tokens, found.output_tokens)
        assert found.is_ceiling_seen
        near += abs(found.rate_rps / true_rps - 1) <= 0.1
        covered += found.low_rps <= true_rps <= found.high_rps
    assert near >= 11
    assert covered >= 10


def test_low_traffic_never_promises_more_than_there_is() -> None:
    above = 0
    for seed in range(12):
        estimate, truth, seen = watched(seed, 0.2, HOUR_S)
        found = learn(estimate, windows_of(seen), LIMITS)
        assert not found.is_ceiling_seen
        true_rps = highest_rps(truth, found.input_tokens, found.output_tokens)
        above += found.low_rps > 1.05 * true_rps
        cautious = found.low_scales.applied(estimate)
        assert highest_rps(cautious, found.input_tokens, found.output_tokens) <= found.rate_rps
    assert above == 0


def test_what_no_traffic_feels_stays_as_estimated() -> None:
    """Short answers to short prompts read next to nothing from the cache."""
    rng = np.random.default_rng(5)
    estimate = estimated("H100")
    truth = Scales(cache=2.0).applied(estimate)
    stream = changing(rng, 2.0, HOUR_S / 2, (60.0, 20.0))
    found = learn(estimate, windows_of(list(looks(truth, stream))), LIMITS)
    assert found.scales.cache == pytest.approx(1.0, abs=0.1)


def test_several_replicas_tell_as_one() -> None:
    parts = []
    rng = np.random.default_rng(1)
    estimate = estimated("L40S")
    truth = Scales(host=1.5, products=0.8).applied(estimate)
    for _ in range(3):
        stream = changing(rng, 0.75 * highest_rps(truth, 800, 200), HOUR_S / 3, (800, 200))
        parts.append(windows_of(list(looks(truth, stream))))
    together = pooled(parts)
    assert len(together.windows) == sum(len(part.windows) for part in parts)
    found = learn(estimate, together, LIMITS)
    true_rps = highest_rps(truth, found.input_tokens, found.output_tokens)
    assert found.rate_rps == pytest.approx(true_rps, rel=0.1)


@pytest.fixture(scope="module")
def hour() -> tuple[ReplicaModel, ReplicaModel, list[Scrape]]:
    return watched(0, 0.75)


def restarted(seen: list[Scrape], at: int) -> list[Scrape]:
    """The same looks with every counter beginning at nothing from one look on."""
    base = seen[at]

    def since(look: Scrape) -> Scrape:
        figures = {
            name: value - base.figures[name]
            if name not in ("running", "waiting", "kv_use")
            else value
            for name, value in look.figures.items()
        }
        sizes = [getattr(look, n).since(getattr(base, n)) for n in ("prompts", "answers")]
        return dataclasses.replace(look, figures=figures, prompts=sizes[0], answers=sizes[1])

    return seen[: at + 1] + [since(look) for look in seen[at + 1 :]]


def test_restarts_gaps_and_clocks_are_cut_out_and_change_nothing_else(hour) -> None:
    estimate, _, seen = hour
    whole = learn(estimate, windows_of(seen), LIMITS)
    gap = seen[:60] + seen[75:]
    back = seen[:60] + [dataclasses.replace(s, time_s=s.time_s - 4000) for s in seen[60:]]
    for looked, reason in ((restarted(seen, 100), RESTARTED), (gap, MISSING), (back, CLOCK)):
        found = windows_of(looked)
        assert found.cuts == Counter({reason: 1})
        assert all(window.step_s < 0.2 and window.seconds < 90 for window in found.windows)
        assert learn(estimate, found, LIMITS).rate_rps == pytest.approx(whole.rate_rps, rel=0.05)


def test_frozen_figures_are_no_rest(hour) -> None:
    _, _, seen = hour
    still = [dataclasses.replace(seen[50], time_s=look.time_s) for look in seen[50:60]]
    found = windows_of(seen[:50] + still + seen[60:])
    assert found.cuts[FROZEN] >= 1
    assert min(window.decoded for window in found.windows) >= 50


def test_an_idle_night_is_no_fault(hour) -> None:
    _, _, seen = hour
    quiet = dataclasses.replace(seen[0], figures={**seen[0].figures, "running": 0.0})
    night = [dataclasses.replace(quiet, time_s=quiet.time_s - 15.0 * k) for k in range(40, 0, -1)]
    assert windows_of([*night, *seen]).cuts == Counter()


def test_too_little_is_said_to_be(hour) -> None:
    estimate, _, seen = hour
    with pytest.raises(ValueError, match="only 1 minutes with enough traffic were seen, 5 are"):
        learn(estimate, windows_of(seen[:6]), LIMITS)


def test_a_second_reading_gives_the_same(hour) -> None:
    estimate, _, seen = hour
    first, second = (learn(estimate, windows_of(list(seen)), LIMITS) for _ in range(2))
    assert first == second


def test_histograms_give_back_the_sizes_they_counted(hour) -> None:
    _, _, seen = hour
    prompts = windows_of(seen).prompts
    assert prompts is not None
    values = prompts.drawn(np.random.default_rng(0), 5000)
    assert values.mean() == pytest.approx(prompts.mean, rel=0.01)
    shares = [float((values <= edge).mean()) for edge in prompts.edges[:-1]]
    counted = [count / prompts.requests for count in prompts.counts[:-1]]
    assert max(abs(a - b) for a, b in zip(shares, counted, strict=True)) < 0.12


def test_groups_do_not_depend_on_the_order_of_windows(hour) -> None:
    estimate, _, seen = hour
    found = windows_of(seen)
    turned = dataclasses.replace(found, windows=tuple(reversed(found.windows)))
    rates = [learn(estimate, each, LIMITS).rate_rps for each in (found, turned)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)
