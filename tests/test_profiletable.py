"""The table format: exact round trip, other SLOs from raw points, damage told in one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from melange_sky.capacity_search import ProbeVerdict, SearchOptions, find_max_rate, rate_from_probes
from melange_sky.errors import InputError
from melange_sky.profiletable import (
    KeptProbe,
    MeasuredCell,
    ProfileTable,
    Provenance,
    load_tables,
    read_table,
    write_table,
)
from melange_sky.slo import SLO, RequestLog

MU = 20.0


def mm1(rate_rps: float, requests: int, seed: int) -> RequestLog:
    """Sojourn times of M/M/1 by Lindley's recursion, as TTFT."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate_rps, requests))
    service = rng.exponential(1 / MU, requests)
    end, free = np.empty(requests), 0.0
    for i in range(requests):
        free = max(free, arrival[i]) + service[i]
        end[i] = free
    ones = np.ones(requests, dtype=np.int64)
    return RequestLog(
        arrival_s=arrival,
        input_tokens=ones * 100,
        output_tokens=ones,
        first_token_s=end,
        last_token_s=end,
        ok=np.ones(requests, dtype=bool),
        option=-ones,
    )


class Recorder:
    def __init__(self) -> None:
        self.kept: list[tuple[float, RequestLog]] = []

    def probe(self, rate_rps: float, requests: int, seed: int) -> RequestLog:
        self.kept.append((rate_rps, mm1(rate_rps, requests, seed)))
        return self.kept[-1][1]


def measured(slo: SLO, options: SearchOptions) -> tuple[MeasuredCell, Recorder]:
    recorder = Recorder()
    result = find_max_rate(recorder, slo, options)
    probes = tuple(
        KeptProbe(
            rate_rps=rate,
            seed=p.seed,
            verdict=p.verdict.value,
            reason=p.reason,
            log=log,
            lateness_max_s=0.001,
            server={"running_mean": 1.5},
        )
        for (rate, log), p in zip(recorder.kept, result.probes, strict=True)
    )
    cell = MeasuredCell(
        input_tokens=100,
        output_tokens=1,
        slo=slo,
        max_rate_rps=result.max_rate_rps,
        reason=result.reason,
        resolved=result.resolved,
        low_rps=result.low_rps,
        high_rps=result.high_rps,
        knee_rps=result.knee_rps,
        seconds=1.0,
        measured_at="2026-01-01T00:00:00Z",
        probes=probes,
    )
    return cell, recorder


OPTIONS = SearchOptions(
    start_rps=8.0, min_requests=500, confirm_requests=20_000, max_requests=20_000, tolerance=0.03
)
PROVENANCE = Provenance(
    model="org/model", accelerator="A10G", accelerator_count=1, engine_flags=("--dtype", "half")
)


def test_round_trip_keeps_every_verdict(tmp_path: Path) -> None:
    slo = SLO(ttft_s=0.5)
    cell, _ = measured(slo, OPTIONS)
    write_table(ProfileTable(provenance=PROVENANCE, cells=(cell,)), tmp_path / "t.profile.jsonl")
    (table,) = load_tables(tmp_path)
    assert table.provenance == PROVENANCE
    back = table.cell(100, 1)
    assert back is not None
    assert back.answer(slo).max_rate_rps == cell.max_rate_rps
    for old, new in zip(cell.probes, back.probes, strict=True):
        assert np.abs(new.log.ttft_s - old.log.ttft_s).max() <= 1e-6
        assert (new.verdict, new.server, new.seed) == (old.verdict, old.server, old.seed)
    assert table.cell(100, 2) is None
    assert list(tmp_path.iterdir()) == [tmp_path / "t.profile.jsonl"]


def test_another_slo_is_answered_from_the_raw_points(tmp_path: Path) -> None:
    """λ* = μ − ln(1/(1−a))/t holds for the other limit too, without a further probe."""
    cell, recorder = measured(SLO(ttft_s=0.5), OPTIONS)
    write_table(ProfileTable(provenance=PROVENANCE, cells=(cell,)), tmp_path / "t.profile.jsonl")
    sent = len(recorder.kept)
    back = read_table(tmp_path / "t.profile.jsonl").cells[0]
    for limit in (0.4, 0.45, 0.6):
        answer = back.answer(SLO(ttft_s=limit), OPTIONS)
        truth = MU - math.log(1 / 0.05) / limit
        assert answer.max_rate_rps == pytest.approx(truth, rel=0.08), answer.reason
    assert back.answer(SLO(ttft_s=1e-4)).max_rate_rps is None
    assert "no kept probe passes" in back.answer(SLO(ttft_s=1e-4)).reason
    assert len(recorder.kept) == sent


def test_failed_requests_and_missing_tokens_survive(tmp_path: Path) -> None:
    log = mm1(5.0, 50, 1)
    log.ok[7] = False
    log.last_token_s[7] = math.nan
    log.first_token_s[7] = math.nan
    log.output_tokens[7] = 0
    probe = KeptProbe(rate_rps=5.0, seed=1, verdict="pass", reason="", log=log)
    cell, _ = measured(SLO(ttft_s=0.5), SearchOptions(start_rps=8.0))
    table = ProfileTable(
        provenance=PROVENANCE,
        cells=(
            MeasuredCell(
                **{f: getattr(cell, f) for f in MeasuredCell.__slots__ if f != "probes"},
                probes=(probe,),
            ),
        ),
    )
    write_table(table, tmp_path / "t.profile.jsonl")
    back = read_table(tmp_path / "t.profile.jsonl").cells[0].probes[0].log
    assert not back.ok[7]
    assert math.isnan(back.ttft_s[7])
    assert back.output_tokens.tolist() == log.output_tokens.tolist()
    assert int(back.ok.sum()) == 49


def test_one_verdict_per_rate_and_nothing_kept() -> None:
    slo = SLO(ttft_s=0.5)
    kept = [(5.0, mm1(5.0, 20, 1)), (5.0, mm1(5.0, 5000, 2)), (19.5, mm1(19.5, 5000, 3))]
    result = rate_from_probes(kept, slo, SearchOptions())
    assert [p.verdict for p in result.probes] == [ProbeVerdict.PASS, ProbeVerdict.FAIL]
    assert result.max_rate_rps is not None
    assert 5.0 < result.max_rate_rps < 19.5
    assert not result.resolved
    nothing = rate_from_probes([], slo, SearchOptions())
    assert (nothing.max_rate_rps, nothing.resolved) == (None, False)


def test_a_probe_ended_early_for_a_tight_limit_bounds_no_looser_one() -> None:
    """At 14 req/s of an M/M/1 of 20, a limit of 0.1 s surely fails soon and 1 s holds."""
    loose, tight = SLO(ttft_s=1.0), SLO(ttft_s=0.1)
    brief = (14.0, mm1(14.0, 20, 1))
    assert rate_from_probes([brief], tight, SearchOptions()).resolved
    alone = rate_from_probes([brief], loose, SearchOptions())
    assert (alone.max_rate_rps, alone.high_rps, alone.resolved) == (None, None, False)
    both = rate_from_probes([(5.0, mm1(5.0, 5000, 2)), brief], loose, SearchOptions())
    assert (both.max_rate_rps, both.high_rps, both.resolved) == (5.0, None, False)
    assert "may be higher" in both.reason
    below = rate_from_probes([brief, (30.0, mm1(30.0, 5000, 3))], loose, SearchOptions())
    assert (below.max_rate_rps, below.high_rps, below.resolved) == (None, 30.0, False)


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]\n",
        "{}\n",
        "not json\n",
        '{"schema": "melange-sky-profile/2", "provenance": {}}\n',
        '{"schema": "melange-sky-profile/1", "provenance": {"model": "m"}}\n',
        "HEAD{}\n",
        "HEAD3\n",
        "HEAD" + "[" * 100_000 + "\n",
        "HEADnull\n",
    ],
)
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t.profile.jsonl"
    write_table(ProfileTable(provenance=PROVENANCE), path)
    path.write_text(damage.replace("HEAD", path.read_text()))
    with pytest.raises(InputError, match=r"t\.profile\.jsonl") as caught:
        read_table(path)
    assert len(str(caught.value)) < 600


def test_a_torn_file_and_wrong_figures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.profile.jsonl"
    cell, _ = measured(SLO(ttft_s=0.5), SearchOptions(start_rps=8.0))
    write_table(ProfileTable(provenance=PROVENANCE, cells=(cell,)), path)
    whole = path.read_text()
    path.write_text(whole[:-200])
    with pytest.raises(InputError, match="line 2"):
        read_table(path)
    path.write_text(whole.replace('"max_rate_rps":', '"max_rate_rps":-'))
    with pytest.raises(InputError, match="max_rate_rps"):
        read_table(path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ({"failed": [99]}, "index 99 is out of bounds for axis 0 with size 2"),
        ({"failed": [10**30]}, "Python int too large to convert to C long"),
        ({"ttft_us": [10**400, 1]}, "int too large to convert to float"),
        ({"failed": None}, "int() argument must be"),
    ],
)
def test_a_damaged_probe_is_told_with_its_line(
    tmp_path: Path, damage: dict[str, object], told: str
) -> None:
    path = tmp_path / "t.profile.jsonl"
    cell, _ = measured(SLO(ttft_s=0.5), SearchOptions(start_rps=8.0))
    probe = replace(cell.probes[0], log=mm1(8.0, 2, 0))
    cell = replace(cell, probes=(probe,))
    write_table(ProfileTable(provenance=PROVENANCE, cells=(cell,)), path)
    head, line = path.read_text().splitlines()
    row = json.loads(line)
    row["probes"][0] |= damage
    path.write_text(f"{head}\n{json.dumps(row)}\n")
    with pytest.raises(InputError) as caught:
        read_table(path)
    (text,) = caught.value.problems
    assert text.startswith(f"{path}: line 2 is not a profile table's ({told}")
    assert text.endswith("); measure again, or move the file away")


def test_missing_places(tmp_path: Path) -> None:
    assert load_tables(tmp_path / "absent") == ()
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "absent.profile.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_table(ProfileTable(provenance=PROVENANCE), tmp_path / "file" / "t.profile.jsonl")
