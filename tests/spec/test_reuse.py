"""`workload.reuse`: what a spec may say of it, and what a trace tells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from melange_sky.errors import InputError
from melange_sky.planner.workloads import count_trace
from melange_sky.spec import Spec, load_spec, trace_reuse
from melange_sky.spec.trace_reuse import BY_HASHES, BY_SESSIONS, reuse_of_trace, shared_trace
from tests.prefixes.shaped import mooncake_like


def spec_of(folder: Path, workload: object) -> Spec:
    path = folder / "spec.yaml"
    document = {"name": "chat", "model": "llama-3.1-8b", "slo": {"ttft_ms": 5000, "tpot_ms": 60}}
    path.write_text(yaml.safe_dump({**document, "workload": workload}, sort_keys=False))
    spec = load_spec(path)
    assert isinstance(spec, Spec)
    return spec


def message(folder: Path, reuse: object) -> str:
    workload = {"rate_rps": 1.0, "distribution": "azure-conv-2023", "reuse": reuse}
    with pytest.raises(InputError) as caught:
        spec_of(folder, workload)
    return str(caught.value)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "moon.jsonl"
    mooncake_like(900).write(path)
    return path


def test_a_trace_with_block_ids_tells_its_reuse(tmp_path: Path, trace: Path) -> None:
    reuse = spec_of(tmp_path, {"trace": str(trace), "reuse": "file"}).models[0].workload.reuse
    assert reuse is not None
    assert (reuse.source, reuse.block_tokens, reuse.shared_prefix_tokens) == (BY_HASHES, 512, 512)
    assert 0.1 < reuse.infinite_hit < 0.4


@pytest.mark.parametrize("reuse", [None, "none", ...])
def test_without_a_word_nothing_is_counted_on(tmp_path: Path, trace: Path, reuse: object) -> None:
    workload = {"trace": str(trace)} | ({} if reuse is ... else {"reuse": reuse})
    assert spec_of(tmp_path, workload).models[0].workload.reuse is None


def test_the_workload_command_writes_what_a_spec_reads(tmp_path: Path, trace: Path) -> None:
    counted = count_trace(trace)
    assert counted.histogram.reuse is not None
    same = spec_of(tmp_path, counted.section).models[0].workload.reuse
    assert same is not None
    for tokens in (1e5, 1e6, 5e6, 1e9):
        assert same.hit_fraction(tokens) == pytest.approx(
            counted.histogram.reuse.hit_fraction(tokens), abs=1e-5
        )
    assert same.source == BY_HASHES
    path = tmp_path / "moon.yaml"
    path.write_text(counted.yaml)
    named = {"distribution": "moon.yaml", "rate_rps": 2.0}
    assert spec_of(tmp_path, {**named, "reuse": "file"}).models[0].workload.reuse == same
    assert spec_of(tmp_path, named).models[0].workload.reuse is None


def test_sessions_tell_reuse_where_their_histories_come_again(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = ["arrival_s,session,input_tokens,output_tokens"]
    rows += [f"{10 * t + s},user{s},{100 + 160 * t},50" for t in range(4) for s in range(5)]
    path.write_text("\n".join(rows) + "\n")
    reuse = reuse_of_trace(path)
    assert reuse is not None
    assert reuse.source == BY_SESSIONS
    assert reuse.session_turns is not None and reuse.session_turns.mean == 4.0
    # of turn t the prompt and answer before are found, in full blocks, all but the answer's last token
    found = sum((100 + 160 * t + 50 - 1) // 16 * 16 for t in range(3))
    assert reuse.infinite_hit == pytest.approx(found / sum(100 + 160 * t for t in range(4)))


def test_requests_come_by_time_whatever_the_order_of_the_rows(tmp_path: Path, trace: Path) -> None:
    lines = trace.read_text().splitlines()
    mixed = tmp_path / "mixed.jsonl"
    order = np.random.default_rng(1).permutation(len(lines))
    mixed.write_text("\n".join(lines[k] for k in order) + "\n")
    one, other = shared_trace(trace), shared_trace(mixed)
    assert one.rows.tobytes() == other.rows.tobytes()
    assert one.paths is not None and other.paths is not None
    assert (
        one.paths.end[one.paths.segment].tolist() == other.paths.end[other.paths.segment].tolist()
    )


def test_a_trace_that_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "arrival_s,input_tokens,output_tokens\n" + "".join(f"{t},100,10\n" for t in range(50))
    )
    assert reuse_of_trace(path) is None
    with pytest.raises(
        InputError, match=r"workload.reuse: neither sessions nor block ids \(hash_ids\) are told"
    ):
        spec_of(tmp_path, {"trace": str(path), "reuse": "file"})


def test_stated_sessions(tmp_path: Path) -> None:
    stated = {
        "session_turns": {"mean": 3},
        "think_time_s": {"mean": 60, "p95": 200},
        "shared_prefix_tokens": 800,
    }
    workload = {"rate_rps": 1.0, "distribution": "azure-conv-2023", "reuse": stated}
    reuse = spec_of(tmp_path, workload).models[0].workload.reuse
    assert reuse is not None
    assert (reuse.stack_distance, reuse.shared_prefix_tokens) == ((), 800)
    assert reuse.session_turns is not None and reuse.session_turns.p95 == 3


@pytest.mark.parametrize(
    ("reuse", "words"),
    [
        ("some", "workload.reuse: must be none, file or a mapping"),
        ({}, "workload.reuse: must have stack_distance, session_turns or shared_prefix_tokens"),
        (
            {"stack_distance": [[10, 0.1], [5, 0.2]]},
            "stack_distance: must be pairs of tokens and fractions, both rising",
        ),
        ({"stack_distance": [[0, 0.0], [5, 1.0]]}, "stack_distance: must stay below 1"),
        (
            {"stack_distance": [[0, 0.0], [5, 0.5]], "infinite_hit": 0.3},
            "infinite_hit: must be the last fraction of stack_distance, 0.5",
        ),
        ({"session_turns": {"mean": 0.5}}, "session_turns.mean: must be at least 1"),
        (
            {"session_turns": {"mean": 2}, "infinite_hit": 0.3},
            "infinite_hit: goes with stack_distance",
        ),
        ({"sesion_turns": {"mean": 2}}, "unknown key 'sesion_turns'"),
        ("file", "neither sessions nor block ids"),
    ],
)
def test_what_cannot_be_is_told_with_its_key(tmp_path: Path, reuse: object, words: str) -> None:
    told = message(tmp_path, reuse)
    assert words in told
    assert "spec.yaml" in told


def test_the_command_prints_it_as_json(tmp_path: Path, trace: Path) -> None:
    from melange_sky.report.workload import histogram_note, workload_document

    histogram = count_trace(trace).histogram
    document = json.loads(json.dumps(workload_document(histogram)))["reuse"]
    assert document["infinite_hit"] == pytest.approx(document["stack_distance"][-1][1])
    assert "an endless cache finds" in histogram_note(histogram)


def test_a_trace_that_tells_nothing_of_it_is_not_read_again_for_it(tmp_path, monkeypatch):
    def refused(trace):
        raise AssertionError(f"{trace} is read again")

    monkeypatch.setattr(trace_reuse, "reuse_of_trace", refused)
    plain, named = tmp_path / "plain.csv", tmp_path / "named.csv"
    plain.write_text("arrival_s,input_tokens,output_tokens\n0,5,6\n9,7,8\n")
    named.write_text("arrival_s,input_tokens,output_tokens,session_id\n0,5,6,a\n9,7,8,a\n")
    assert count_trace(plain).histogram.reuse is None
    with pytest.raises(AssertionError, match="is read again"):
        count_trace(named)


def test_files_with_and_without_times_are_no_one_trace(tmp_path):
    timed, bare = tmp_path / "timed.csv", tmp_path / "bare.csv"
    timed.write_text("arrival_s,input_tokens,output_tokens\n0,5,6\n9,7,8\n")
    bare.write_text("input_tokens,output_tokens\n5,6\n")
    for files in ((timed, bare), (bare, timed)):
        with pytest.raises(InputError) as error:
            count_trace(files)
        told = f"{bare}: holds no times, but {timed} does: one trace has one clock"
        assert str(error.value) == told
