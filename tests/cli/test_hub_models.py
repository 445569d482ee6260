"""`model: org/name[@revision]` from the Hub in every command that takes a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.errors import InputError, SourceUnavailableError
from melange_sky.planfile import dump_plan, parse_plan
from melange_sky.planner.plan_files import write_plan
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.plans import Plan
from melange_sky.pricing import OfferQuery
from melange_sky.rendering import render_services
from melange_sky.settings import home_dir
from tests.cli.runner import melange_sky
from tests.factories import LLAMA_CONFIG
from tests.hub.server import COMMIT, Answer, HubServer

OWN, TOKEN = "org/Own-8B", "hf_secret_of_mine"
BYTES = 16_060_522_496


def files(total: int = BYTES, **over: Any) -> dict[str, bytes]:
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    return {
        "config.json": json.dumps({**LLAMA_CONFIG, **over}).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }


def spec(folder: Path, model: Any = OWN, **over: Any) -> Path:
    """A spec whose sizes a shipped table answers."""
    document = {
        "name": "own",
        "model": model,
        "slo": {"tpot_ms": 60, "ttft_ms": 2000},
        "workload": {"rate_rps": 4, "distribution": "azure-conv-2023"},
        "resources": {"accelerators": ["L40S", "H100"], "infra": ["aws"]},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(document | over, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def shipped_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catalogs that cannot be reached, so that the shipped prices stand in."""
    monkeypatch.setenv("MELANGE_SKY_CATALOG_URL", "http://127.0.0.1:9")


def planned(path: Path, *, offline: bool = False) -> Plan:
    """Plan with the shipped prices; the network is for the Hub alone."""
    prices = OfferQuery(offline=offline)
    return plan_spec(path, PlanRequest(prices=prices, sensitivity=False))


def commands(plan: Plan) -> list[str]:
    return [yaml.safe_load(text)["run"] for text in render_services(plan).values()]


def test_a_model_of_the_hub_is_planned_recorded_and_pinned(hub: HubServer, tmp_path: Path) -> None:
    hub.put(OWN, files())
    plan = planned(spec(tmp_path))
    asked = len(hub.seen)
    source = plan.models[0].model_source
    assert planned(spec(tmp_path), offline=True).models[0].model_source == source
    assert len(hub.seen) == asked
    assert source is not None
    assert (source.id, source.kind, source.revision) == (OWN, "hub", COMMIT)
    assert source.files == {"config.json": hashlib.sha256(files()["config.json"]).hexdigest()}
    (check,) = source.checks
    assert (check.read_bytes, check.held_bytes) == (BYTES, BYTES)
    assert all(f"  --revision {COMMIT} \\\n" in command for command in commands(plan))
    document = json.loads(dump_plan(plan))
    assert document["model_source"]["revision"] == COMMIT
    again = parse_plan(document, "plan.json")
    assert again == plan
    assert render_services(again) == render_services(plan)


def test_a_revision_may_stand_behind_the_model_or_among_the_flags(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.put(OWN, files())
    hub.answers |= {path.replace("main", "v2"): a for path, a in hub.answers.items()}
    for path in [path for path in hub.answers if "/main/" in path]:
        del hub.answers[path]
    behind = planned(spec(tmp_path, f"{OWN}@v2"))
    assert behind.models[0].model == OWN
    assert all(f"--revision {COMMIT}" in command for command in commands(behind))
    flag = planned(spec(tmp_path, engine={"args": ["--revision", "v2"]}))
    assert all("--revision v2" in c and COMMIT not in c for c in commands(flag))
    with pytest.raises(InputError) as told:
        planned(spec(tmp_path, f"{OWN}@v2", engine={"args": ["--revision=v3"]}))
    assert str(told.value) == (
        f"{tmp_path / 'spec.yaml'}:2: model: asks for revision 'v2', engine.args for --revision v3; "
        "leave one of them out"
    )


def test_a_tokenizer_of_another_repository_is_not_looked_for_at_the_commit(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.put(OWN, files())
    for engine, args, told in (
        ("vllm", ["--tokenizer", "org/t"], f"--revision {COMMIT} \\\n  --tokenizer-revision main"),
        ("vllm", ["--hf-config-path", "org/c"], None),
        ("sglang", [], f"--revision {COMMIT}"),
        ("sglang", ["--tokenizer-path", "org/t"], None),
    ):
        plan = planned(spec(tmp_path, engine={"name": engine, "args": args}))
        for command in commands(plan):
            assert told in command if told else COMMIT not in command


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (
            Answer(status=401, headers={"X-Error-Code": "GatedRepo"}),
            InputError,
            "this model is gated: accept",
        ),
        (Answer(status=403), InputError, "the Hub refuses it (HTTP 403)"),
        (
            Answer(status=404, headers={"X-Error-Code": "RepoNotFound"}),
            InputError,
            "this model is not on the",
        ),
        (Answer(b'{"model_type": "lla'), InputError, "config.json is not JSON"),
        (Answer(length=10 * 2**30), InputError, "config.json has 10737418240 bytes"),
        (Answer(status=503), SourceUnavailableError, "the Hub answers HTTP 503"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_a_refusal_is_one_line_at_the_model(
    hub: HubServer, tmp_path: Path, answer: Answer, kind: type[Exception], told: str
) -> None:
    hub.put(OWN, files())
    hub.fault(OWN, "config.json", answer)
    with pytest.raises(kind) as refused:
        planned(spec(tmp_path))
    text = str(refused.value)
    assert text.startswith(f"{tmp_path / 'spec.yaml'}:2: model: {OWN}: {told}")
    assert "\n" not in text


def test_bytes_that_differ_are_told_with_both_figures(hub: HubServer, tmp_path: Path) -> None:
    hub.put(OWN, files(total=BYTES + 10**9))
    with pytest.raises(
        InputError, match=r"reads as 16\.06 GB of weights where its files hold 17\.06 GB"
    ):
        planned(spec(tmp_path))


def test_without_the_network_a_model_must_be_kept(hub: HubServer, tmp_path: Path) -> None:
    hub.put("meta-llama/Llama-3.1-8B-Instrct", files())
    path = spec(tmp_path, "meta-llama/Llama-3.1-8B-Instrct")
    for environment in ("HF_HUB_OFFLINE", "MELANGE_SKY_OFFLINE", None):
        with pytest.MonkeyPatch.context() as patch:
            if environment is not None:
                patch.setenv(environment, "1")
            with pytest.raises(SourceUnavailableError) as told:
                planned(path, offline=environment is None)
        assert str(told.value).endswith(
            "models pull meta-llama/Llama-3.1-8B-Instrct (did you mean 'meta-llama/Llama-3.1-8B-Instruct'?)"
        )
    assert hub.seen == []


def test_a_gated_model_asks_for_a_token_that_no_file_holds(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    hub.put(OWN, files())
    for answer in hub.answers.values():
        answer.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level("DEBUG")
    plan = planned(spec(tmp_path))
    write_plan(plan, tmp_path / "out")
    documents = [yaml.safe_load(path.read_text()) for path in (tmp_path / "out").glob("own-*.yaml")]
    assert all(document["secrets"]["HF_TOKEN"] is None for document in documents)
    kept = b"".join(path.read_bytes() for path in home_dir().rglob("*") if path.is_file())
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert TOKEN.encode() not in kept + written + caplog.text.encode()


def test_a_users_own_file_is_recorded_with_its_hash(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(files()["config.json"])
    own = {"model_config": "config.json"}
    source = planned(spec(tmp_path, "mine", **own)).models[0].model_source
    assert source is not None
    assert (source.kind, source.revision) == ("file", None)
    assert source.path == str(tmp_path / "config.json")
    assert source.files["config.json"] == hashlib.sha256(files()["config.json"]).hexdigest()
    pinned = planned(spec(tmp_path, f"{OWN}@{COMMIT}", **own))
    assert all(f"--revision {COMMIT}" in command for command in commands(pinned))
    with pytest.raises(InputError, match="'main' is not a commit of 40 hex digits"):
        planned(spec(tmp_path, f"{OWN}@main", **own))


def test_a_shipped_model_needs_no_network_and_has_its_own_name(
    hub: HubServer, tmp_path: Path
) -> None:
    plan = planned(spec(tmp_path, "llama-3.1-8b-instruct"))
    source = plan.models[0].model_source
    assert source is not None and (source.kind, source.revision) == ("shipped", None)
    assert plan.models[0].model == source.id == "meta-llama/Llama-3.1-8B-Instruct"
    assert hub.seen == []


def test_a_damaged_commit_in_a_plan_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.put(OWN, files())
    document = json.loads(dump_plan(planned(spec(tmp_path))))
    document["model_source"]["revision"] = "--help"
    with pytest.raises(
        InputError, match=r"model_source\.revision: must be a commit of 40 hex digits"
    ):
        parse_plan(document, "plan.json")


def test_commands_take_ids_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    hub.put(OWN, files())
    sizes = ("--input", "1000", "--output", "100", "--accelerators", "L40S")
    shown = melange_sky("capacity", "--model", f"{OWN}@main", *sizes, "--format", "json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["model"] == OWN
    kept = melange_sky("capacity", "--offline", "--model", OWN, *sizes)
    assert kept.returncode == 0, kept.stderr
    absent = melange_sky("capacity", "--offline", "--model", "org/None", *sizes)
    assert (absent.returncode, absent.stdout) == (4, "")
    assert absent.stderr.startswith("error: org/None: this model is not kept on this machine")
    listed = melange_sky("models", "list", "--format", "json")
    assert {"model": OWN, "revision": COMMIT, "source": "Hub, main"} in json.loads(listed.stdout)
