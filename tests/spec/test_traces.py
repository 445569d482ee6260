"""Traces as streams, the grid, coverage, shipped distributions and the `workload` command."""

from __future__ import annotations

import gzip
import json
import math
import random
import tracemalloc
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from melange_sky.cli import main
from melange_sky.cli.workload import init, workload
from melange_sky.errors import InputError
from melange_sky.spec import Spec, build_histogram, histogram_yaml, load_spec
from melange_sky.spec.demand import load_distribution, shipped_distributions
from melange_sky.spec.histogram import to_workload
from melange_sky.spec.trace_files import histogram_of_trace
from melange_sky.traces import read_trace, table
from melange_sky.workload import DEFAULT_INPUT_EDGES, DEFAULT_OUTPUT_EDGES

ROOT = Path(__file__).resolve().parents[2]
AZURE = ROOT.parent / "shared" / "data" / "azure_llm_2023_conv.csv"

ROWS = [(0.0, 374, 44), (4.25, 396, 109), (4.5, 879, 55)]


def azure_text() -> str:
    stamps = ["18:15:46.6805900", "18:15:50.9305900", "18:15:51.1805900"]
    rows = [f"2023-11-16 {s},{i},{o}" for s, (_, i, o) in zip(stamps, ROWS, strict=True)]
    return "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n"


def burstgpt_text() -> str:
    rows = [f"{t},GPT-4,{i},{o},{i + o},Conversation log" for t, i, o in ROWS]
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    return "\n".join([header, *rows]) + "\n"


def mooncake_text() -> str:
    return "".join(
        json.dumps(
            {"timestamp": int(t * 1000), "input_length": i, "output_length": o, "hash_ids": [1]}
        )
        + "\n"
        for t, i, o in ROWS
    )


def own_text() -> str:
    return "arrival_s,input_tokens,output_tokens\n" + "".join(f"{t},{i},{o}\n" for t, i, o in ROWS)


@pytest.mark.parametrize("text", [azure_text(), burstgpt_text(), mooncake_text(), own_text()])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_format_reads_the_same_requests(tmp_path: Path, text: str, end: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(text.replace("\n", end).encode())
    found = list(read_trace(path))
    assert [(r.input_tokens, r.output_tokens) for r in found] == [(i, o) for _, i, o in ROWS]
    assert [r.arrival_s - found[0].arrival_s for r in found] == pytest.approx([0, 4.25, 4.5])
    packed = tmp_path / "trace.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert list(read_trace(packed)) == found


def test_clock_goes_on_over_midnight_and_zones(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 23:59:59.5+00:00,1,1\n2024-05-11 00:00:00.25+00:00,1,1\n"
    )
    first, second = read_trace(path)
    assert second.arrival_s - first.arrival_s == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the trace is empty"),
        ("a,b,c\n1,2,3\n", "line 1: no column's name says that it counts the input or output"),
        (azure_text() + "2023-11-16 18:15:46\n", "line 5: fewer columns"),
        (azure_text() + "yesterday,1,2\n", "line 5: the time 'yesterday' is not a date and time"),
        (
            azure_text() + "2023-11-16 25:00:00,1,2\n",
            "line 5: the time '2023-11-16 25:00:00' is not a time",
        ),
        (azure_text() + "2023-11-16 18:15:46,-1,2\n", "line 5: token counts must be whole"),
        (azure_text() + "2023-11-16 18:15:46,1.5,2\n", "line 5: token counts must be whole"),
        (own_text() + "nan,1,2\n", "line 5: arrival_s is empty"),
        (own_text() + "1e16,1,2\n", "line 5: the time is not a finite number"),
        (
            own_text() + "1,nan,2\n",
            "line 5: input_tokens is empty, though the request was answered",
        ),
        (own_text() + "1,x,2\n", "line 5: token counts must be whole"),
        (own_text() + "1,2,3,4\n", "line 5: more columns than the header"),
        (own_text() + '1,"2,3\n', "line 5: not CSV (a quote is not closed)"),
        (mooncake_text() + "{\n", "line 4: not JSON"),
        (
            mooncake_text() + '{"input_length": 4, "output_length": 2}\n',
            "line 4: timestamp is empty",
        ),
        (mooncake_text() + "7\n", "line 4: is no JSON object"),
        (own_text() + "x" * 100_000, "line 5: fewer columns"),
        (azure_text().splitlines()[0] + "\n", None),
    ],
)
def test_unreadable_line_is_told_with_its_number(
    tmp_path: Path, text: str, words: str | None
) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    if words is None:
        assert list(read_trace(path)) == []
        return
    with pytest.raises(InputError) as caught:
        list(read_trace(path))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 500


def test_rows_without_any_tokens_are_no_requests(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(mooncake_text() + '{}\n[1]\n{"event": "started", "timestamp": 5000}\n')
    assert len(list(read_trace(path))) == len(ROWS)
    assert histogram_of_trace(path).warnings == (
        "trace.jsonl: 3 rows hold no token counts and are no requests",
    )


def test_a_line_longer_than_any_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_LINE", 4096)
    path = tmp_path / "trace.jsonl"
    path.write_text(mooncake_text() + json.dumps({"prompt": "x" * 5000, "input_length": 1}) + "\n")
    with pytest.raises(InputError, match="line 4: longer than"):
        list(read_trace(path))


HEADERS = {
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens",
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    "own": "arrival_s,input_tokens,output_tokens",
}
ODD = ["", " 7", "7.0", "7.5", "-1", "+7", "1e3", "nan", "x", '"7"', "10000001", "1_0", "true"]
TIMES = ["2024-05-10 10:00:00", "2024-05-10T10:00:01.25Z", "2024-05-10 10:00:02.5+00:00"]
ODD_TIMES = ["", "1", "2024-05-10", "2024-05-10 24:00:00", "2024-05-10 10:00:00+02:00", "x"]


def random_line(kind: str, rng: random.Random) -> str:
    """A line of a trace, one in four of them with something odd in it."""
    odd = rng.random() < 0.25
    tokens = [str(rng.randint(0, 9000)) for _ in range(2)]
    at = rng.choice(TIMES) if kind == "azure" else f"{rng.uniform(0, 1e5):.6f}"
    if odd and rng.random() < 0.5:
        tokens[rng.randint(0, 1)] = rng.choice(ODD)
    elif odd:
        at = rng.choice(ODD_TIMES if kind == "azure" else ["", "nan", "inf", "1e16", "-5", " 1"])
    if kind == "mooncake":
        ids = rng.choice(["", ', "hash_ids": [1, 2]', ', "x": true', ', "y": "{"'])
        return (
            f'{{"timestamp": {at}, "input_length": {tokens[0]}, "output_length": {tokens[1]}{ids}}}'
        )
    cells = [at, *tokens] if kind != "burstgpt" else [at, "GPT-4", *tokens, "9", "API log"]
    if odd and rng.random() < 0.2:
        cells = rng.choice([cells[:-1], [*cells, "more"], []])
    return ",".join(cells)


def read_or_why(path: Path) -> list[tuple[float, int, int]] | str:
    try:
        return [tuple(row) for row in read_trace(path)]
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("kind", ["azure", "burstgpt", "own", "mooncake"])
def test_where_blocks_are_cut_changes_nothing(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace"
    for seed in range(60):
        rng = random.Random(seed)
        head = [HEADERS[kind]] if kind in HEADERS else []
        lines = [random_line(kind, rng) for _ in range(rng.choice([1, 3, 40]))]
        path.write_text(rng.choice(["\n", "\r\n"]).join([*head, *lines]) + rng.choice(["", "\n"]))
        monkeypatch.setattr(table, "BLOCK_BYTES", 1 << 20)
        whole = read_or_why(path)
        monkeypatch.setattr(table, "BLOCK_BYTES", 64)
        assert read_or_why(path) == whole


def test_counting_many_at_once_counts_as_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rng = random.Random(5)
    rows = [
        (rng.uniform(-1e5, 1e5), rng.choice([0, 1, 25, 26, 9000, 200_000]), rng.randint(0, 3000))
        for _ in range(3000)
    ]
    path.write_text(HEADERS["own"] + "\n" + "".join(f"{t},{i},{o}\n" for t, i, o in rows))
    edges = (0, 25, 100, 8000), (0, 50, 1000)
    assert histogram_of_trace(path, *edges) == build_histogram(
        read_trace(path), "trace trace.csv", *edges
    )


def test_a_trace_is_never_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    with path.open("w") as file:
        file.write("arrival_s,input_tokens,output_tokens\n")
        file.writelines(f"{k},{k % 3000},{k % 700 + 1}\n" for k in range(1_300_000))
    tracemalloc.start()
    histogram = histogram_of_trace(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert histogram.coverage is not None
    assert histogram.coverage.requests == 1_300_000
    assert peak < path.stat().st_size / 2


def test_requests_beyond_the_grid_are_planned_at_their_mean_size_and_told() -> None:
    requests: list[tuple[float | None, int, int]] = [(0.0, 10, 10), (1.0, 50, 20), (2.0, 250, 70)]
    histogram = build_histogram(requests, "trace x", (0, 25, 100), (0, 50))
    found = to_workload(histogram, 3.0)
    assert found.rates_rps == ((1.0,), (2.0,))
    assert found.input_sizes[1][0] == 150.0
    assert found.output_sizes[1][0] == 45.0
    assert found.coverage is not None
    assert found.coverage.beyond_fraction == pytest.approx(1 / 3)
    assert found.coverage.longest_input_tokens == 250
    assert "33.33%" in found.warnings[0]
    assert "250" in found.warnings[0]
    assert histogram.rate_rps == pytest.approx(1.0)


def test_edges_belong_to_the_lower_bucket_and_zero_to_the_first() -> None:
    sizes = [(0.0, 0, 0), (0.0, 25, 25), (0.0, 26, 26), (0.0, 100, 100)]
    histogram = build_histogram(sizes, "x", (0, 25, 100), (0, 25, 100))
    assert histogram.weights == ((0.5, 0.0), (0.0, 0.5))
    assert histogram.coverage is not None
    assert histogram.coverage.beyond_fraction == 0
    assert histogram.rate_rps is None


def test_histogram_yaml_is_a_section_that_a_spec_reads_back(tmp_path: Path) -> None:
    histogram = build_histogram(ROWS, "it's a trace: \n x", (0, 25, 500, 1000), (0, 50, 100))
    text = histogram_yaml(histogram, "why\nnot")
    spec = "name: x\nmodel: meta-llama/Llama-3.1-8B\nslo: {tpot_ms: 60}\n" + text
    path = tmp_path / "spec.yaml"
    path.write_text(spec)
    loaded = load_spec(path)
    assert isinstance(loaded, Spec)
    found = loaded.models[0].workload
    expected = to_workload(histogram, 2 / 4.5)
    assert found.coverage is not None
    assert found.coverage.beyond_fraction == pytest.approx(1 / 3, abs=1e-5)
    assert (found.coverage.requests, found.coverage.longest_output_tokens) == (3, 109)
    for name in ("rates_rps", "input_sizes", "output_sizes"):
        for row, other in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert row == pytest.approx(other, rel=1e-3)


def test_shipped_distributions_are_sound_and_cited() -> None:
    shipped = shipped_distributions()
    assert {"azure-conv-2023", "short-chat", "long-document"} <= set(shipped)
    for name, path in shipped.items():
        histogram = load_distribution(path)
        assert sum(map(sum, histogram.weights)) == pytest.approx(1, abs=1e-4)
        text = path.read_text()
        assert "Citation: " in text, name
        assert "Derived by: " in text, name


@pytest.mark.parametrize(
    ("name", "mean_in", "mean_out"), [("short-chat", 69.5, 214.5), ("long-document", 4021, 271)]
)
def test_derived_distributions_keep_the_published_means(
    name: str, mean_in: float, mean_out: float
) -> None:
    found = to_workload(load_distribution(shipped_distributions()[name]), 1.0)

    def mean(sizes: tuple[tuple[float, ...], ...]) -> float:
        pairs = zip(found.rates_rps, sizes, strict=True)
        return sum(r * s for row, size in pairs for r, s in zip(row, size, strict=True))

    assert mean(found.input_sizes) == pytest.approx(mean_in, rel=0.01)
    assert mean(found.output_sizes) == pytest.approx(mean_out, rel=0.01)


@pytest.mark.skipif(not AZURE.exists(), reason="the Azure trace is not beside the project")
def test_the_azure_distribution_is_what_the_command_derives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    edges = [
        *("--input-edges", ",".join(map(str, DEFAULT_INPUT_EDGES))),
        *("--output-edges", ",".join(map(str, DEFAULT_OUTPUT_EDGES))),
    ]
    workload.main([str(AZURE), *edges], standalone_mode=False)
    told = capsys.readouterr()
    derived = yaml.safe_load(told.out)["workload"]
    shipped = yaml.safe_load(shipped_distributions()["azure-conv-2023"].read_text())["workload"]
    derived["histogram"].pop("source")
    shipped["histogram"].pop("source")
    assert derived == shipped
    assert "19366 requests, 5.53 req/s; 100.00% on the grid" in told.err


def test_a_grid_fits_the_trace_to_its_longest_request(tmp_path: Path) -> None:
    rng = random.Random(2)
    path = tmp_path / "long.csv"
    rows = [
        f"{k},{int(rng.lognormvariate(9.4, 0.8))},{int(rng.lognormvariate(5, 1)) + 1}\n"
        for k in range(4000)
    ]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(rows))
    histogram = histogram_of_trace(path)
    coverage = histogram.coverage
    assert coverage is not None
    assert coverage.beyond_fraction == 0.0
    assert coverage.longest_input_tokens is not None
    assert coverage.longest_input_tokens <= histogram.input_edges[-1]
    assert histogram.input_edges[-1] < 2 * coverage.longest_input_tokens
    assert len(histogram.input_edges) <= 11
    assert len(histogram.output_edges) <= 7
    assert max(map(sum, histogram.weights)) < 0.3, "no bucket holds most of the requests"
    assert math.isclose(sum(map(sum, histogram.weights)), 1.0)


def test_a_fitted_grid_counts_as_the_same_grid_given(tmp_path: Path) -> None:
    rng = random.Random(3)
    path = tmp_path / "t.csv"
    rows = [f"{k},{rng.randint(0, 5000)},{rng.randint(1, 900)}\n" for k in range(3000)]
    path.write_text("arrival_s,input_tokens,output_tokens\n" + "".join(rows))
    fitted = histogram_of_trace(path)
    assert histogram_of_trace(path, fitted.input_edges, fitted.output_edges) == fitted


def test_trace_in_a_spec_with_its_own_grid_and_rate(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(own_text())
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: x\nmodel: meta-llama/Llama-3.1-8B\nslo: {tpot_ms: 60}\n"
        "workload: {trace: t.csv, grid: {input_edges: [0, 400, 900], output_edges: [0, 200]}}\n"
    )
    loaded = load_spec(path)
    assert isinstance(loaded, Spec)
    found = loaded.models[0].workload
    assert found.rate_rps == pytest.approx(2 / 4.5)  # one window: its mean is its peak
    assert found.input_sizes == ((385.0,), (879.0,))


def test_workload_command_writes_the_file_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, output = tmp_path / "t.csv", tmp_path / "h.yaml"
    trace.write_text(own_text())
    edges = ["--input-edges", "0,500", "--output-edges", "0,100"]
    workload.main([str(trace), "-o", str(output), *edges], standalone_mode=False)
    assert capsys.readouterr().out == ""
    section = yaml.safe_load(output.read_text())["workload"]
    assert section["histogram"]["coverage"]["beyond_fraction"] == pytest.approx(2 / 3, abs=1e-5)
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "name: x\nmodel: meta-llama/Llama-3.1-8B\nslo: {tpot_ms: 60}\n"
        "workload: {rate_rps: 3, distribution: h.yaml}\n"
    )
    loaded = load_spec(spec)
    assert isinstance(loaded, Spec)
    assert loaded.models[0].workload.rates_rps == ((pytest.approx(3.0),),)


@pytest.mark.parametrize(
    "arguments",
    [
        ["workload", "absent.csv"],
        ["workload", "."],
        ["workload", "t.csv", "-o", "no/such/folder/h.yaml"],
        ["workload", "t.csv", "-o", "."],
        ["workload", "t.csv", "--input-edges", "0,x"],
        ["workload", "t.csv", "--input-edges", "5,1"],
        ["init", "t.csv"],
        ["init", "no/such/folder/spec.yaml"],
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text(own_text())
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv"]


def test_init_writes_a_spec_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    result = CliRunner().invoke(init, [str(path)])
    assert result.exit_code == 0
    assert isinstance(load_spec(path), Spec)


def optional_lines(text: str) -> set[str]:
    """The starter's commented keys, uncommented."""
    commented = (line for line in text.splitlines() if line.lstrip().startswith("# "))
    bare = (line.replace("# ", "", 1) for line in commented)
    return {line for line in bare if line.split(":")[0].strip().isidentifier()}


def test_every_commented_key_of_the_starter_is_a_key(tmp_path: Path) -> None:
    CliRunner().invoke(init, [str(tmp_path / "spec.yaml")])
    text = (tmp_path / "spec.yaml").read_text()
    path = tmp_path / "all.yaml"
    found = [
        line for line in text.splitlines() if line.replace("# ", "", 1) in optional_lines(text)
    ]
    assert len(found) >= 9
    for commented in found:
        path.write_text(text.replace(commented, commented.replace("# ", "", 1)))
        try:
            load_spec(path)
        except InputError as error:  # some need a file, or stand in place of another key
            assert "unknown key" not in str(error), commented
