"""Every function called for real, on small inputs, after all modules of the package are imported."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import melange_sky
from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.planner import measuring_jobs
from melange_sky.plans import Plan
from tests.factories import make_plan
from tests.profiler.conftest import StartServer
from tests.sdk.standin import StandIn
from tests.sdk.test_exports import module_names

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
SPEC: dict[str, Any] = {
    "name": "chat",
    "model": LLAMA,
    "slo": {"tpot_ms": 60, "ttft_ms": 2000},
    "workload": {
        "rate_rps": 8,
        "histogram": {"input_edges": [0, 1000], "output_edges": [0, 200], "weights": [[1]]},
    },
    "resources": {"accelerators": ["A10G", "H100:1"], "infra": ["aws"]},
}


@pytest.fixture(scope="module", autouse=True)
def all_modules() -> None:
    """A module that bears a function's name would stand in its place from now on."""
    for name in module_names():
        importlib.import_module(name)


@pytest.fixture
def sky(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    standin = StandIn()
    monkeypatch.setitem(sys.modules, "sky", standin)
    monkeypatch.setenv("HF_TOKEN", "hf-secret-canary")
    return standin


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return melange_sky.write(make_plan(), tmp_path / "chat-plan")


def test_plan_takes_a_dict_and_what_it_returns_is_a_plan(tmp_path: Path) -> None:
    planned = melange_sky.plan(SPEC, offline=True)
    assert isinstance(planned, Plan) and planned.cost_usd_per_hour > 0
    assert planned.sensitivity is not None
    assert planned.sensitivity.command is None or "<dict>" not in planned.sensitivity.command
    again = melange_sky.load(melange_sky.write(planned, tmp_path / "out"))
    assert again == planned
    assert melange_sky.render(tmp_path / "out") == melange_sky.render(planned)
    assert melange_sky.table(again) in str(planned)
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(SPEC), encoding="utf-8")
    assert melange_sky.plan(str(file), offline=True).models == planned.models


def test_a_melange_config_may_be_a_dict_too() -> None:
    config = {
        "gpu_info": {"A": {"cost": 1.0, "tputs": [[1.0]]}},
        "workload_distribution": [[1.0]],
        "total_request_rate": 5.0,
        "slice_factor": 1,
    }
    planned = melange_sky.plan(config)
    assert (planned.name, planned.cost_usd_per_hour) == ("melange", pytest.approx(5.0))
    with pytest.raises(InputError, match="<dict>: sweep takes a melange_sky spec"):
        melange_sky.sweep(config, rates=[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slo": {"tpot_ms": "x"}}, "<dict>: slo.tpot_ms: must be a number"),
        ({"modle": "x"}, "<dict>: modle: unknown key 'modle' (did you mean 'model'?)"),
        (
            {"engine": {"args": {1}}},
            "<dict>: engine.args: a value of type set is not allowed in a spec",
        ),
        ({3: 4}, "<dict>: ['3']: a key must be plain text"),
        ({"model_config": "no.json"}, "<dict>: model_config: no file at 'no.json'"),
    ],
)
def test_an_error_of_a_dict_names_it_and_the_key(change: dict[Any, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        melange_sky.plan({**SPEC, **change}, offline=True)
    assert any(problem.startswith(message) for problem in caught.value.problems)


def test_a_dict_in_itself_is_one_line() -> None:
    endless: dict[str, Any] = dict(SPEC)
    endless["engine"] = endless
    with pytest.raises(InputError, match="<dict>: nested deeper than 32 levels"):
        melange_sky.plan(endless)


def test_paths_in_a_dict_begin_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{k},100,50\n" for k in range(50))
    (tmp_path / "trace.csv").write_text(f"arrival_s,input_tokens,output_tokens\n{rows}")
    spec = {**SPEC, "workload": {"rate_rps": 2, "trace": Path("trace.csv")}}
    assert melange_sky.plan(spec, offline=True).models[0].workload.rate_rps == pytest.approx(2)


def test_simulate_and_explain_take_a_plan_or_its_folder(folder: Path) -> None:
    simulations = melange_sky.simulate(folder, duration_s=60)
    assert simulations.met and len(simulations) == 1
    same = melange_sky.simulate(make_plan(), duration_s=60)
    assert same[0].verdict == simulations[0].verdict
    reasons = melange_sky.explain(folder, alternatives=1, price_error=0.1)
    assert reasons.explanation.buckets and reasons.robustness is not None
    assert str(reasons) == str(melange_sky.explain(make_plan(), alternatives=1, price_error=0.1))


@pytest.mark.usefixtures("kept_estimates")
def test_verify_and_compare() -> None:
    small = {**SPEC, "resources": {"accelerators": ["A10G"], "infra": ["aws"]}}
    verified = melange_sky.verify(small, offline=True, seed=3)
    (model,) = verified.models
    assert model.verification is not None and "in replay" in str(verified)
    contenders = melange_sky.compare(small, rates=[2.0], offline=True)
    assert {c.kind for c in contenders} == {"mix", "mix, sliced", "A10G"}


def test_sweep_and_capacity() -> None:
    points = melange_sky.sweep(SPEC, rates=[1, 8], prices="A10G=1,0.5", offline=True)
    assert [(p.rate_rps, p.prices) for p in points] == [
        (rate, step) for step in ("A10G=1", "A10G=0.5") for rate in (1.0, 8.0)
    ]
    answer = melange_sky.capacity(
        model=LLAMA, accelerators=["A10G", "H100"], inputs=[100, 1000], outputs="50", tpot_ms=60
    )
    assert [row.label for row in answer.rows] == ["A10G", "H100"]
    assert answer.rows[1].replica.cells[0][0].max_rate_rps


def test_prices(tmp_path: Path) -> None:
    book = melange_sky.prices(accelerators="A10G", infra="aws")
    assert {offer.accelerator for offer in book.offers} == {"A10G"}
    assert melange_sky.price_snapshots() == ()
    with pytest.raises(SourceUnavailableError, match="no prices have been fetched yet"):
        melange_sky.diff_prices()
    for refuse in (melange_sky.refresh_prices, melange_sky.check_prices):
        with pytest.raises(InputError, match="needs the network"):
            refresh = refuse(offline=True)
            del refresh
    planned = melange_sky.write(melange_sky.plan(SPEC, offline=True), tmp_path / "out")
    moved = melange_sky.diff_plan(planned)
    assert moved.change_fraction == pytest.approx(0) and "no other mix is cheaper now" in str(moved)


def test_diff_plan_takes_a_plan_and_a_spec_as_a_dict() -> None:
    planned = melange_sky.plan(SPEC, offline=True)
    anew = melange_sky.diff_plan(planned, spec=SPEC)
    assert anew.weighs_all and anew.cheapest_usd_per_hour == pytest.approx(
        planned.cost_usd_per_hour
    )


def test_init_writes_what_plan_takes(tmp_path: Path) -> None:
    file = melange_sky.init(tmp_path / "spec.yaml")
    assert melange_sky.plan(file, offline=True).name == "chat"
    with pytest.raises(InputError, match="already exists"):
        melange_sky.init(str(file))
    assert melange_sky.init(file, force=True) == file


def test_a_traces_workload_goes_into_a_dict(tmp_path: Path) -> None:
    rows = "".join(f"{k},{100 + k},50\n" for k in range(50))
    trace = tmp_path / "trace.csv"
    trace.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}")
    counted = melange_sky.trace_workload(trace, input_edges=[0, 120, 1000], output_edges="0,200")
    assert str(counted).startswith("# Derived by: melange-sky workload trace.csv\nworkload:\n")
    assert counted.histogram.rate_rps == pytest.approx(1.0)
    (model,) = melange_sky.plan({**SPEC, "workload": counted.section}, offline=True).models
    assert model.workload.rate_rps == pytest.approx(1.0)
    assert model.workload.input_sizes[0][0] == pytest.approx(110.0)
    with pytest.raises(InputError, match="--input-edges: must rise strictly"):
        melange_sky.trace_workload(trace, input_edges=[5, 1])


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path))
    assert LLAMA in {known.model for known in melange_sky.list_models()}
    assert f"{LLAMA}\n" in str(melange_sky.list_models())
    model = melange_sky.show_model(LLAMA)
    assert model.layers.parameters == 8_030_261_248
    assert "parameters" in str(model) and "8.03 B" in model._repr_html_()
    with pytest.raises(SourceUnavailableError, match="the network is forbidden"):
        melange_sky.pull_model("org/other", offline=True)
    with pytest.raises(InputError, match="is not the id of a model"):
        melange_sky.pull_model("other", offline=True)


SERVE = """
import json, signal, sys, threading, urllib.request
import melange_sky

def ask(listening):
    def get():
        with urllib.request.urlopen(f"{listening.url}/health") as answer:
            print(json.dumps([answer.status, listening.models, listening.unserved]), flush=True)
        signal.raise_signal(signal.SIGTERM)
    threading.Thread(target=get, daemon=True).start()

plan = melange_sky.load(sys.argv[1])
melange_sky.serve(plan, backends=[f"a10g={sys.argv[2]}"], port=0, on_start=ask)
"""


def test_serve_takes_requests_until_it_is_ended(folder: Path, start_server: StartServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(folder), start_server()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, models, unserved = json.loads(done.stdout)
    assert status == 200 and models == [make_plan().models[0].model]
    assert unserved == [[make_plan().models[0].name, "a100"]]


def test_serve_refuses_what_the_command_refuses(folder: Path) -> None:
    with pytest.raises(InputError, match="no backend: give --backend"):
        melange_sky.serve(folder)
    with pytest.raises(InputError, match="--port: 70000 must lie between 0 and 65535"):
        melange_sky.serve(folder, backends=["a10g=http://127.0.0.1:9"], port=70000)
    with pytest.raises(InputError, match="require an API key"):
        melange_sky.serve(folder, backends=["a10g=http://127.0.0.1:9"], host="0.0.0.0")


def test_profile(start_server: StartServer, tmp_path: Path) -> None:
    measured = melange_sky.profile(
        url=start_server(),
        model="known",
        accelerator="A10G:1",
        inputs=[20],
        outputs=[1],
        ttft_ms=5000,
        max_requests=20,
        tolerance=0.5,
        max_lateness_ms=500,
        out=tmp_path,
    )
    assert measured.report.table.cells and measured.meets_slo
    assert f"{20:>8} {1:>8}" in str(measured)


def test_profiling_jobs(sky: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring_jobs, "POLL_S", 0.0)
    preview = melange_sky.launch_profile(SPEC, dry_run=True, offline=True, out=tmp_path)
    assert sky.calls == [] and "A10G:1" in str(preview)
    launched = melange_sky.launch_profile(SPEC, offline=True, out=tmp_path)
    assert sky.calls == [f"launch {job.name}" for job in launched.taken]
    states = melange_sky.profile_status(SPEC)
    assert {state.status for state in states.values()} == {"SUCCEEDED"}
    assert list(melange_sky.collect_profile(SPEC, out=tmp_path)) == [
        f"{name}: SUCCEEDED, 0 sizes measured" for name in sorted(states)
    ]
    with pytest.raises(InputError, match="no job fits --max-usd 0"):
        melange_sky.launch_profile(SPEC, offline=True, max_usd=0.0, out=tmp_path / "other")
    with pytest.raises(
        MelangeError,
        match=r"SkyPilot has no profiling jobs for <dict>; .* melange-sky profile launch SPEC\.yaml",
    ):
        melange_sky.collect_profile({**SPEC, "name": "other"})


def test_apply_status_and_down(sky: StandIn, folder: Path, tmp_path: Path) -> None:
    shown = melange_sky.apply(folder, dry_run=True)
    assert [change.action.value for change in shown] == ["start", "start"] and sky.calls == []
    events: list[str] = []
    backends = tmp_path / "backends"
    melange_sky.apply(folder, backends=backends, on_event=events.append)
    names = [change.name for change in shown]
    assert sky.calls == [f"up {name}" for name in names]
    assert f"{names[0]}: starting 1" in events
    assert backends.read_text().count("*1\n") == 2
    standing = melange_sky.status(folder)
    assert [(s.service, s.ready, s.status) for s in standing.services] == [
        (name, 1, "READY") for name in names
    ]
    again = melange_sky.apply(folder)
    assert {change.action.value for change in again} == {"keep"} and len(sky.calls) == 2
    assert sorted(melange_sky.down(folder)) == sorted(names)
    assert sky.live == {} and melange_sky.down(folder) == ()
    assert [s.status for s in melange_sky.status(folder).services] == ["DOWN", "DOWN"]


@pytest.mark.parametrize("name", ["apply", "status", "down"])
def test_without_skypilot_it_is_one_line(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sky", None)
    with pytest.raises(SourceUnavailableError) as caught:
        getattr(melange_sky, name)(folder)
    assert str(caught.value) == (
        "SkyPilot is not installed here; install it with: pip install skypilot"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "gatway"}, "--policy: 'gatway' is not one of gateway"),
        ({"ci": 0.0}, "--ci: 0 must lie between 0.0001 and 0.5"),
        ({"duration_s": float("nan")}, "--duration: must be a number above 0"),
        ({"model_name": "x"}, "no model 'x' in the plan"),
    ],
)
def test_what_the_command_line_refuses_is_refused_here(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        melange_sky.simulate(make_plan(), **options)
    assert str(caught.value).startswith(message)
