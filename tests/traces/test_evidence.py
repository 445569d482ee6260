"""A log read in its likely unit and proven afterwards is what one proven first is."""

from __future__ import annotations

import json
import random
from pathlib import Path

from melange_sky.errors import InputError
from melange_sky.spec.trace_files import histogram_of_trace
from melange_sky.traces import TraceReader, evidence

ROWS = 3000
"""More than the sample: what comes behind it may say otherwise."""


def times_of(rng: random.Random) -> list[str]:
    """Times whose rate, digits or rows change behind the sample, or do not."""
    ticks, rate_rps, change = rng.choice([1, 1000, 10**6]), rng.choice([0.05, 2, 60]), 1.0
    at, found = 0.0, []
    shift = rng.choice([1.0, 1.0, 1e-3, 1e3])
    digits = rng.choice([0, 0, 3])
    for n in range(ROWS):
        if n == 2500:
            change, digits = shift, rng.choice([digits, 0, 2])
        at += rng.expovariate(rate_rps) * change
        found.append(f"{at * ticks:.{digits}f}")
    if rng.random() < 0.3:
        found[rng.randrange(2200, ROWS)] = rng.choice(["", "never", "7e17", "-3"])
    return found


def write(path: Path, times: list[str], named: tuple[str, str]) -> Path:
    if path.suffix == ".csv":
        rows = [f"{t},{n % 900 + 1},{n % 90 + 1}" for n, t in enumerate(times)]
        path.write_text("\n".join([f"timestamp,{named[0]},{named[1]}", *rows]) + "\n")
        return path
    with path.open("w") as file:
        for n, t in enumerate(times):
            value = float(t) if t.replace(".", "", 1).isdecimal() else t or None
            row = {"timestamp": value, named[0]: n % 900 + 1, named[1]: n % 90 + 1}
            file.write(json.dumps(row) + "\n")
    return path


def outcome(path: Path) -> object:
    try:
        return histogram_of_trace(path)
    except InputError as error:
        return str(error)


def test_it_is_the_same_whatever_comes_behind_the_beginning(tmp_path, monkeypatch):
    rng = random.Random(17)
    proofs: list[bool] = []
    prove = TraceReader.prove

    def noted(reader: TraceReader) -> bool:
        is_likely = reader._evidence is not None
        was_right = prove(reader)
        proofs.extend([was_right] * is_likely)
        return was_right

    monkeypatch.setattr(TraceReader, "prove", noted)
    for n in range(60):
        named = rng.choice([("input_length", "output_length"), ("input_tokens", "output_tokens")])
        path = write(tmp_path / f"t{n}.{rng.choice(['csv', 'jsonl'])}", times_of(rng), named)
        monkeypatch.setattr(evidence, "FEWEST_BYTES", 1 << 40)
        first = outcome(path)
        monkeypatch.setattr(evidence, "FEWEST_BYTES", 0)
        assert outcome(path) == first, path.name
    assert proofs.count(True) >= 10
    assert proofs.count(False) >= 2


def test_a_row_that_is_wrong_in_the_likely_unit_only_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "FEWEST_BYTES", 0)
    times = [str(15 * n) for n in range(2500)] + [str(2 * 10**16 + 10**14 * n) for n in range(500)]
    path = write(tmp_path / "t.csv", times, ("input_tokens", "output_tokens"))
    reader = TraceReader(path, proves_later=True)
    assert reader.reading.clock is not None
    assert reader.reading.clock.startswith("seconds")  # of which 2e16 are no time
    assert sum(map(len, reader.blocks())) == 0
    assert not reader.prove()
    assert reader.reading == TraceReader(path).reading
    assert sum(map(len, reader.blocks())) == ROWS
