"""Sizes that move: what is chance, what is not, and what becomes of the fleet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from melange_sky.errors import InfeasibleError
from melange_sky.planner.watching.ticking import Tick
from melange_sky.watching.decide import Rules
from melange_sky.watching.mix import MixLog
from melange_sky.watching.seen import Seen
from tests.watching.toy import ToyFleets, followed, watcher

APPLY = Rules(mode="apply")
PLANNED = np.array([[0.7], [0.2], [0.1]])
LONG, SHORT = np.array([[0.5], [0.3], [0.2]]), np.array([[0.9], [0.1], [0.0]])
LOADS = {"small": np.array([[0.05], [0.2], [1.0]]), "large": np.array([[0.02], [0.1], [0.5]])}


def log() -> MixLog:
    return MixLog(PLANNED, LOADS)


def looks(one: MixLog, mix: np.ndarray, minutes: int, rate_rps: float, seed: int) -> list[bool]:
    rng = np.random.default_rng(seed)
    begin = 60.0 * seed * 10_000
    moved = []
    for n in range(minutes + 1):
        drawn = rng.multinomial(round(rate_rps * 60), mix.ravel()).reshape(mix.shape) / 60.0
        moved.append(one.add(begin + 60.0 * n, drawn, ["small"]))
    return moved


@pytest.mark.parametrize("seed", range(4))
def test_requests_drawn_from_the_same_mix_never_move_it(seed: int) -> None:
    one = log()
    assert not any(looks(one, PLANNED, 1440, 4.0, seed))
    assert one.now is PLANNED


@pytest.mark.parametrize(("mix", "windows"), [(LONG, 2), (SHORT, 6)])
def test_heavier_requests_are_taken_after_two_windows_lighter_ones_after_an_hour(
    mix: np.ndarray, windows: int
) -> None:
    one = log()
    moved = looks(one, mix, 115, 8.0, 1)
    assert moved.index(True) == 10 * windows and moved.count(True) == 1
    assert (one.off(PLANNED * 1e5, ["small"]) < 0) is (windows == 2)  # the other one now
    assert one.now == pytest.approx(mix, abs=0.03)


def test_few_requests_take_longer() -> None:
    moved = looks(log(), LONG, 120, 0.5, 1)
    assert moved.index(True) == 68  # 1000 requests, twice


def test_one_window_alone_moves_nothing() -> None:
    one = log()
    assert not any(looks(one, LONG, 10, 8.0, 1))
    assert one.last > 0
    assert not any(looks(one, PLANNED, 60, 8.0, 2))
    assert one.last == 0


def test_what_is_not_known_counts_as_much_as_the_heaviest() -> None:
    loads = {"small": np.array([[0.05], [np.nan], [1.0]])}
    one = MixLog(np.array([[0.9], [0.0], [0.1]]), loads)
    assert one.off(np.array([[700.0], [200.0], [100.0]]), ["small"]) > 0.5
    assert one.off(np.array([[700.0], [200.0], [100.0]]), ["other"]) == 0.0


def test_looks_without_sizes_or_of_another_grid_are_left_out() -> None:
    one = log()
    for n in range(90):
        assert not one.add(60.0 * n, None if n % 2 else np.ones((2, 2)), ["small"])
    assert one.now is PLANNED and one.last == 0


class SizedFleets(ToyFleets):
    """Toy fleets whose rates fall as requests grow; of longer ones than so much they serve none."""

    def __init__(self, shares: np.ndarray = PLANNED) -> None:
        heavier = float((shares * LOADS["small"]).sum() / (PLANNED * LOADS["small"]).sum())
        if heavier > 4:
            raise InfeasibleError("nothing serves requests so long")
        super().__init__(small=(1.0, 5.0 / heavier), large=(1.7, 10.0 / heavier))
        self._shares = shares

    @property
    def shares(self) -> Any:
        return self._shares

    def loads(self) -> dict[str, Any]:
        return LOADS

    def of_mix(self, shares: Any) -> SizedFleets:
        return SizedFleets(shares)


def sized(mixes: list[np.ndarray], rate_rps: float, **over: Any) -> Iterator[Tick]:
    """Look once a minute at a rate, at each minute of a mix of its own."""
    one = over.get("one") or watcher(APPLY, fleets=SizedFleets())
    through = one.tick

    def tick(seen: Seen) -> Tick:
        n = round((seen.time - 1_790_000_000.0) / 60)
        found: Tick = through(replace(seen, bucket_rates=mixes[n] * rate_rps))
        return found

    one.tick = tick
    return followed(one, [rate_rps] * len(mixes), over.get("first", {"small": 2}))


def test_a_fleet_follows_longer_requests_at_the_same_rate() -> None:
    ticks = list(sized([PLANNED] * 180 + [LONG] * 120, 9.0))
    told = [(n, t.decision.verb, t.decision.reason) for n, t in enumerate(ticks)]
    acted = [row for row in told if row[1] == "apply" or row[2] == "mix"]
    assert [row[1:] for row in acted[:2]] == [("keep", "mix"), ("apply", "grow")]
    assert 195 <= acted[0][0] <= 205 and acted[1][0] == acted[0][0] + 1
    assert "what runs serves" in ticks[acted[0][0]].decision.message
    live = ticks[-1].seen.live
    assert live is not None
    assert SizedFleets(LONG).rate((live["small"], live.get("large", 0))) >= 9.0


def test_a_watcher_that_was_killed_knows_the_sizes_again() -> None:
    lines = [t.entry for t in sized([PLANNED] * 60 + [LONG] * 60, 9.0)]
    resumed = watcher(APPLY, fleets=SizedFleets())
    resumed.resume(lines)
    assert resumed.fleets.shares == pytest.approx(LONG, abs=1e-6)


def test_nothing_shrinks_where_no_fleet_is_known_for_what_is_seen() -> None:
    huge = np.array([[0.0], [0.0], [1.0]])
    ticks = list(sized([PLANNED] * 180 + [huge] * 200, 4.0, first={"small": 4}))
    reasons = [t.decision.reason for t in ticks]
    place = reasons.index("mix")
    assert "no fleet is known" in ticks[place].decision.message
    assert "nothing serves requests so long" in ticks[place].decision.message
    shrunk = sum((ticks[place].seen.live or {}).values())
    assert all(sum((t.seen.live or {}).values()) == shrunk for t in ticks[place:])
