"""Machine code does what the interpreter does with the same functions, bit for bit."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from melange_sky.simulator import compiled, dispatch, kernel, simulate_closed_loop
from melange_sky.simulator.fleet import FleetRules, Outage
from melange_sky.simulator.native import Packed, Program, TranslationError
from tests.machine import slowness
from tests.simulator.test_fleet import mixed, run
from tests.simulator.test_windows import POOL, replica
from tests.test_routing import two_way_plan

if TYPE_CHECKING:
    from melange_sky.simulator.state import FloatRows, Floats, Whole, WholeRows

LIMIT = 7
WHOLE = st.integers(-(1 << 40), 1 << 40)
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


class Things(NamedTuple):
    """A record with every kind of field."""

    count: int
    rate: float
    whole: Whole
    floats: Floats
    table: WholeRows
    grid: FloatRows


class Pair(NamedTuple):
    """A record of records."""

    one: Things
    factor: float
    other: Things


def across(pair: Pair, at: int) -> float:
    pair.other.floats[at] += 1.0
    return pair.factor * (pair.one.rate + pair.other.floats[at] + pair.other.table[at, 1])


def things() -> Things:
    rng = np.random.default_rng(4)
    return Things(
        count=5,
        rate=0.25,
        whole=rng.integers(-9, 9, 5),
        floats=rng.normal(size=5),
        table=rng.integers(-9, 9, (5, 3)),
        grid=rng.normal(size=(5, 4)),
    )


def whole_numbers(a: int, b: int, shift: int) -> tuple[int, int, int, int, int, bool]:
    quotient, rest = a // b, a % b
    total = -a
    total += b * LIMIT
    total -= 1 if a < b < 100 else 3
    return quotient, rest, total, (a << shift) >> 3, min(a, b, LIMIT) - max(a, b), a != b


def float_numbers(x: float, y: float, n: int) -> tuple[float, float, float, bool, bool, bool]:
    smaller = min(x, y, n)
    return smaller, max(x, y), abs(x) + n * y - -x, x < y, math.isnan(x + y), math.isinf(x)


def ways(n: int, limit: int) -> tuple[int, int, int]:
    found, skipped, extra = 0, 0, 0
    for i in range(n):
        if i % 3 == 1:
            skipped += 1
            continue
        if i > limit and not (i in (2, 9) or limit < 0):
            break
        found += i
    while True:
        extra += 1
        if extra * extra > n or extra == limit:
            return found, skipped, extra
        for weight in (1, LIMIT, -2):
            extra += max(0, weight)
        for i in range(2, 4):
            extra -= i


def over_arrays(t: Things, at: int) -> float:
    row, (least, rate) = t.table[at], (1e300, t.rate)
    for k in range(len(row)):
        row[k], t.whole[k] = t.whole[k], row[k]
        t.grid[at, k] *= rate
        t.floats[k] += t.table[at, k]
    for i in range(len(t.floats)):
        if i < len(row) and row[i] > 0 and t.floats[i] < least:
            least = t.floats[i]
    swap(t, 0, at)
    return least if least < 1e300 else t.count


def swap(t: Things, a: int, b: int) -> None:
    t.whole[a], t.whole[b] = t.whole[b], t.whole[a]
    if t.count > 3:
        return
    t.whole[a] = int(t.floats[a])


PROGRAM = Program(whole_numbers, float_numbers, ways, over_arrays)
WHOLE_NUMBERS, FLOAT_NUMBERS, WAYS, OVER_ARRAYS = PROGRAM.entries()


def bits(values: Any) -> list[Any]:
    return [
        np.float64(v).tobytes() if isinstance(v, float) and not math.isnan(v) else str(v)
        for v in values
    ]


@settings(deadline=None, max_examples=300)
@given(a=WHOLE, b=WHOLE.filter(bool), shift=st.integers(0, 20))
@example(a=-7, b=2, shift=1)
@example(a=7, b=-2, shift=1)
@example(a=-8, b=2, shift=0)
def test_whole_numbers_are_as_in_the_interpreter(a: int, b: int, shift: int) -> None:
    assert WHOLE_NUMBERS(a, b, shift) == whole_numbers(a, b, shift)


@settings(deadline=None, max_examples=300)
@given(x=ANY_FLOAT, y=ANY_FLOAT, n=st.integers(-9, 9))
def test_floats_are_as_in_the_interpreter(x: float, y: float, n: int) -> None:
    assert bits(FLOAT_NUMBERS(x, y, n)) == bits(
        [float(v) if type(v) is int else v for v in float_numbers(x, y, n)]
    )


@settings(deadline=None, max_examples=100)
@given(n=st.integers(-2, 200), limit=st.integers(-2, 60))
def test_loops_end_where_the_interpreters_do(n: int, limit: int) -> None:
    assert WAYS(n, limit) == ways(n, limit)


@pytest.mark.parametrize("at", range(5))
def test_arrays_and_rows_change_in_place(at: int) -> None:
    ours, plain = things(), things()
    assert bits([OVER_ARRAYS(ours, at)]) == bits([over_arrays(plain, at)])
    for name in ("whole", "floats", "table", "grid"):
        assert getattr(ours, name).tobytes() == getattr(plain, name).tobytes()
    assert OVER_ARRAYS(Packed(ours), at) == over_arrays(plain, at)


def test_division_by_zero_is_zero_for_whole_numbers() -> None:
    assert WHOLE_NUMBERS(5, 0, 0)[:2] == (0, 0)


def with_a_list(n: int) -> int:
    return len([n])


def of_two_kinds(n: int) -> float:
    x = n
    if n > 0:
        x = n / 2
    return x


def with_a_keyword(n: int) -> int:
    return int(x=n)


def without_a_kind(n: Any) -> int:
    return int(n)


def of_no_such_name(t: Things) -> int:
    return t.counts


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (with_a_list, "cannot be translated"),
        (of_two_kinds, "FLOAT where"),
        (with_a_keyword, "keyword"),
        (without_a_kind, "annotation Any"),
        (of_no_such_name, "no such field"),
    ],
)
def test_what_cannot_be_translated_is_refused_with_its_place(function: Any, words: str) -> None:
    (entry,) = Program(function).entries()
    with pytest.raises(TranslationError, match=words):
        entry(1)


def test_arguments_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        OVER_ARRAYS(things()._replace(floats=np.zeros(5, dtype=np.float32)), 0)
    with pytest.raises(TypeError, match="gaps"):
        OVER_ARRAYS(things()._replace(table=np.zeros((3, 5), dtype=np.int64).T), 0)
    with pytest.raises(TypeError, match="for Things"):
        OVER_ARRAYS(dispatch.Rules(0, 1, 1.0), 0)


def test_several_threads_may_call_first() -> None:
    (entry,) = Program(ways).entries()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda n: entry(n, 50), [40] * 8)) == {ways(40, 50)}


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator's functions as they are, without machine code."""
    for name in ("set_requests", "enter", "advance_all", "run_open_loop", "run_closed_loop"):
        monkeypatch.setattr(compiled, name, getattr(kernel, name))
    monkeypatch.setattr(compiled, "run", dispatch.run)


FLEETS = [
    (policy, seed)
    for policy in ("gateway", "round_robin", "least_load", "instance_aware_least_load")
    for seed in (1, 2)
]


def fleet_bytes(policy: str, seed: int) -> list[bytes]:
    outages = tuple(Outage(replica=r, start_s=1.0 + r, end_s=3.0 + 2 * r) for r in range(seed))
    rules = FleetRules(
        policy=policy, queue_room=20, queue_patience_s=0.5, outages=outages, samples=7
    )
    pool = dataclasses.replace(POOL, blocks=90)
    one = replica(pool=pool, chunked=seed == 1, max_num_seqs=16)
    found = run(two_way_plan(), mixed(60.0, 250, seed), rules, engine=one, engines_per_replica=seed)
    log = found.log
    arrays = (log.first_token_s, log.last_token_s, log.ok, found.replica, found.reason)
    return [a.tobytes() for a in (*arrays, found.kv_used, found.busy_fraction)]


@pytest.mark.parametrize(("policy", "seed"), FLEETS)
def test_a_fleet_is_as_in_the_interpreter(
    policy: str, seed: int, request: pytest.FixtureRequest
) -> None:
    ours = fleet_bytes(policy, seed)
    request.getfixturevalue("interpreted")
    assert fleet_bytes(policy, seed) == ours


def closed_bytes() -> list[bytes]:
    rng = np.random.default_rng(8)
    sizes = rng.integers(1, 150, 60), rng.integers(1, 120, 60)
    log = simulate_closed_loop(replica(pool=POOL, max_num_seqs=16), 7, *sizes)
    return [log.first_token_s.tobytes(), log.last_token_s.tobytes(), log.ok.tobytes()]


def test_a_closed_loop_is_as_in_the_interpreter(request: pytest.FixtureRequest) -> None:
    ours = closed_bytes()
    request.getfixturevalue("interpreted")
    assert closed_bytes() == ours


def test_machine_code_is_made_within_three_seconds() -> None:
    """On a fresh machine too: nothing is kept. In seconds of a usual processor, however busy this one is."""
    code = (
        "from melange_sky.simulator import compiled; import time\n"
        "before = time.process_time()\n"
        "compiled.make()\n"
        "print(time.process_time() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(done.stdout) < 3.0 * slowness()


def test_records_hold_records() -> None:
    (fast,) = Program(across).entries()
    mine, theirs = (Pair(things(), 2.5, things()) for _ in range(2))
    for at in range(3):
        assert fast(Packed(mine), at) == across(theirs, at)
        assert fast(mine, at) == across(theirs, at)
    assert mine.other.floats.tolist() == theirs.other.floats.tolist()
