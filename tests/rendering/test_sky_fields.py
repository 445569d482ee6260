"""A user's own SkyPilot fields: kept from spec to SkyServe, checked by SkyPilot, told where they restart."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan
from melange_sky.planfile.read import parse_plan
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.plans import FILLER_MEMORY, Plan, SkyFields, sky_problems
from melange_sky.plans.sky_fields import DECIDED, RESOURCE_KEYS, TASK_KEYS
from melange_sky.pricing import OfferQuery
from melange_sky.rendering import launch_command, render_services
from melange_sky.skyserve import LiveService, Wanted
from melange_sky.skyserve.changes import differences
from melange_sky.skyserve.watch_marks import WatchMark, mark_of, marked
from melange_sky.spec import load_spec
from tests.cli.runner import melange_sky
from tests.rendering.test_sky_accepts import A10G, BIG, DEARER, allocate, ask_sky, plan_of
from tests.skycatalog import write_catalogs

UPDATES = Path(__file__).with_name("sky_updates.py")

TEAM: dict[str, Any] = {
    "resources": {
        "labels": {"team": "search", "cost-center": "42"},
        "image_id": "docker:vllm/vllm-openai:v0.10.0",
        "disk_size": 300,
        "disk_tier": "best",
        "network_tier": "best",
    },
    "service": {
        "readiness_probe": {
            "path": "/v1/models",
            "initial_delay_seconds": 1800,
            "headers": {"Authorization": "Bearer $PROBE_TOKEN"},
        },
        "load_balancing_policy": "round_robin",
    },
    "envs": {"MODEL": "Qwen/Qwen2.5-7B-Instruct", "WORKERS": 3},
    "secrets": {"PROBE_TOKEN": None},
    "volumes": {"/models": "team-models"},
    "setup": "echo prepared\n",
    "config": {"docker": {"run_options": ["--ipc=host"]}},
    "per_accelerator": {
        "H100": {"resources": {"disk_tier": "high"}, "envs": {"WORKERS": 8}},
        "H100:8": {"envs": {"WORKERS": 64}},
    },
}
"""What a team's SkyServe file carries: labels, image, disks, volumes, probe, secrets, own set-up."""


def with_sky(plan: Plan, block: dict[str, Any]) -> Plan:
    models = tuple(dataclasses.replace(m, sky=SkyFields.read(block)) for m in plan.models)
    return dataclasses.replace(plan, models=models)


def team_plan(replicas: int = 2, **block: Any) -> Plan:
    plan = plan_of(allocate(A10G, replicas, fallbacks=(DEARER,)), allocate(BIG, 1))
    return with_sky(plan, {**TEAM, **block})


def rendered(plan: Plan) -> dict[str, dict[str, Any]]:
    return {name: yaml.safe_load(text) for name, text in render_services(plan).items()}


def one(plan: Plan) -> str:
    """The file of a plan's A10G service."""
    return next(text for name, text in render_services(plan).items() if "a10g" in name)


def without_memory(text: str) -> str:
    head = text[: text.index("\nname:") + 1]
    document = yaml.safe_load(text)
    del document["resources"]["memory"]
    return head + yaml.safe_dump(document, sort_keys=False)


pytestmark = pytest.mark.usefixtures("kept_estimates")


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two processes: services are brought up, SkyPilot's catalog is corrected, services are updated."""
    home = tmp_path_factory.mktemp("skyhome")
    mounted = home / "cfg"
    mounted.write_text("x")
    mounts = {"file_mounts": {"/cfg": str(mounted)}}
    write_catalogs(home, [A10G, DEARER, BIG])
    files = {
        "team": one(team_plan(2)),
        "mounts": one(team_plan(2, **mounts)),
        "filled": without_memory(one(team_plan(2))),
        "relabelled": one(team_plan(2)),
        "plain": one(plan_of(allocate(A10G, 2))),
        "watched": watched(one(plan_of(allocate(A10G, 2))), "here"),
    }
    before = ask_sky(UPDATES, home, {"files": files, "before": {}})
    corrected = [dataclasses.replace(o, memory_gib=15.25) for o in (A10G, DEARER, BIG)]
    write_catalogs(home, corrected)
    resources = {**TEAM["resources"], "labels": {"team": "ads"}}
    after = {
        "team": one(team_plan(5)),
        "mounts": one(team_plan(5, **mounts)),
        "filled": without_memory(one(team_plan(5))),
        "relabelled": one(team_plan(2, resources=resources)),
        "plain": one(plan_of(allocate(A10G, 7))),
        "watched": watched(one(plan_of(allocate(A10G, 7))), "there"),
    }
    return ask_sky(UPDATES, home, {"files": after, "before": before["stored"]})


def test_a_change_of_replicas_restarts_nothing_even_if_the_catalog_was_corrected(
    updates: dict[str, Any],
) -> None:
    assert updates["kept"] == {
        "team": True,
        "plain": True,
        "watched": True,
        "mounts": False,  # as the plan's warning says
        "filled": False,  # what SkyPilot fills in changed with its catalog
        "relabelled": False,
    }


def watched(text: str, watcher: str) -> str:
    """A service's file as a watcher hands it to SkyPilot."""
    wanted = Wanted(
        name="sample",
        plan="sample",
        option="a10g",
        replicas=1,
        price_usd_per_hour=1.0,
        document=yaml.safe_load(text),
    )
    mark = WatchMark(watcher=watcher, host="h", at_s=1.0)
    return yaml.safe_dump(marked(wanted, mark).document)


def test_skyserve_keeps_who_watches_a_service(updates: dict[str, Any]) -> None:
    document = yaml.safe_load(updates["stored"]["watched"])
    service = LiveService(
        name="s", status="READY", version=2, endpoint=None, replicas=(), document=document
    )
    assert mark_of(service) == WatchMark(watcher="there", host="h", at_s=1.0)
    assert differences(document, yaml.safe_load(updates["stored"]["plain"])) == ()


def test_skypilot_keeps_what_the_team_said(updates: dict[str, Any]) -> None:
    kept = yaml.safe_load(updates["stored"]["team"])
    for place in kept["resources"].get("any_of") or [kept["resources"]]:
        whole = {**kept["resources"], **place}
        assert whole["labels"] == TEAM["resources"]["labels"]
        assert set(whole["image_id"].values()) == {TEAM["resources"]["image_id"]}
        assert (whole["disk_size"], whole["disk_tier"]) == (300, "best")
        assert whole["network_tier"] == "best"
        assert whole["memory"] == FILLER_MEMORY
        assert whole["instance_type"] == "g5.xlarge"
    probe = kept["service"]["readiness_probe"]
    assert (probe["path"], probe["initial_delay_seconds"]) == ("/v1/models", 1800)
    assert kept["service"]["load_balancing_policy"] == "round_robin"
    assert kept["service"]["replica_policy"]["min_replicas"] == 5
    assert kept["envs"] == {"MODEL": "Qwen/Qwen2.5-7B-Instruct", "WORKERS": "3"}
    assert kept["volumes"] == {"/models": "team-models"}
    assert kept["setup"].startswith("echo prepared\nrequirement=vllm==")
    assert "vllm serve" in kept["run"]


def test_every_field_of_skypilot_is_open_or_decided(updates: dict[str, Any]) -> None:
    """What a new SkyPilot adds shows here: is it for the user to say, or for the plan?"""
    decided = {path[-1] for path in DECIDED if len(path) == 1}
    ours = {"_metadata"}
    assert set(updates["schema"]["task"]) == {*TASK_KEYS, *decided, *ours}
    of_resources = {path[1] for path in DECIDED if path[0] == "resources"}
    theirs = {key for key in updates["schema"]["resources"] if not key.startswith("_")}
    assert theirs == {*RESOURCE_KEYS, *of_resources, "volumes", "ephemeral_storage"}
    assert {p[1] for p in DECIDED if p[0] == "service"} <= set(updates["schema"]["service"])


def test_a_probe_in_short_form_keeps_its_path_under_one_accelerator_s_own() -> None:
    block = {
        "service": {"readiness_probe": "/ready"},
        "per_accelerator": {"A10G": {"service": {"readiness_probe": {"timeout_seconds": 33}}}},
    }
    (document,) = rendered(with_sky(plan_of(allocate(A10G, 1)), block)).values()
    probe = document["service"]["readiness_probe"]
    assert (probe["path"], probe["timeout_seconds"]) == ("/ready", 33)


def test_fields_of_one_accelerator_go_on_top() -> None:
    services = rendered(team_plan())
    small = next(d for name, d in services.items() if "a10g" in name)
    large = next(d for name, d in services.items() if "h100" in name)
    assert (small["resources"]["disk_tier"], small["envs"]["WORKERS"]) == ("best", "3")
    assert (large["resources"]["disk_tier"], large["envs"]["WORKERS"]) == ("high", "64")
    assert large["resources"]["labels"] == TEAM["resources"]["labels"]
    assert [*small][-2:] == ["setup", "run"]


def test_a_saved_plan_alone_renders_the_same_files() -> None:
    block = {**TEAM, "file_mounts": {"/cfg": "/etc/hostname"}}
    plan = with_sky(plan_of(allocate(BIG, 1)), block)
    again = parse_plan(json.loads(dump_plan(plan)), "plan.json")
    assert again.models[0].sky == plan.models[0].sky
    assert render_services(again) == render_services(plan)


def test_a_plan_without_fields_is_rendered_as_before() -> None:
    plan = plan_of(allocate(A10G, 2))
    assert render_services(with_sky(plan, {})) == render_services(plan)


def test_secrets_are_asked_for_and_never_written() -> None:
    plan = team_plan(secrets={"PROBE_TOKEN": None, "secrets:hf": None})
    allocation = plan.models[0].allocations[0]
    command = launch_command(plan.models[0], allocation)
    assert command.endswith("--secret HF_TOKEN --secret PROBE_TOKEN")
    (document,) = [d for name, d in rendered(plan).items() if "a10g" in name]
    assert document["secrets"] == {
        "VLLM_API_KEY": "",
        "HF_TOKEN": None,
        "PROBE_TOKEN": None,
        "secrets:hf": None,
    }
    listed = rendered(team_plan(secrets=["secrets:hf"]))
    assert all("secrets:hf" in document["secrets"] for document in listed.values())


BAD: dict[str, tuple[Any, str]] = {
    "no mapping": ([1], "must be a mapping of SkyPilot's own fields"),
    "typo": ({"resource": {}}, "resource: is no field of SkyPilot's services (did you mean"),
    "accelerators": ({"resources": {"accelerators": "L4"}}, "the plan chooses it"),
    "any_of": ({"resources": {"any_of": [{}]}}, "the plan chooses it"),
    "region": ({"resources": {"region": "us-east-1"}}, "resources.infra of the spec narrows"),
    "spot": ({"resources": {"use_spot": True}}, "resources.use_spot of the spec"),
    "memory": ({"resources": {"memory": "64+"}}, "comes with the instance type"),
    "port": ({"resources": {"ports": 9000}}, "replicas listen on the plan's port"),
    "replicas": ({"service": {"replicas": 3}}, "the plan decides how many"),
    "policy": ({"service": {"replica_policy": {"min_replicas": 1}}}, "the plan decides how many"),
    "run": ({"run": "vllm serve x"}, "the plan starts the engine"),
    "name": ({"name": "x"}, "the plan names its services"),
    "internal": ({"resources": {"_is_image_managed": True}}, "belongs to SkyPilot"),
    "login": ({"resources": {"_docker_login_config": {}}}, "belongs to SkyPilot"),
    "secret": ({"secrets": {"TOKEN": "hunter2"}}, "a secret's value would be written to files"),
    "secret list": ({"secrets": ["TOKEN"]}, "must be 'secrets:NAME'"),
    "secret env": ({"envs": {"HF_TOKEN": "hf_x"}}, "is a secret: leave it out of the spec"),
    "env without value": ({"envs": {"MODE": None}}, "needs a value"),
    "own env": ({"envs": {"SKYPILOT_DEBUG": "1"}}, "belongs to SkyPilot"),
    "header": (
        {"service": {"readiness_probe": {"path": "/", "headers": {"X-Api-Key": "abc"}}}},
        "say $NAME, with NAME: null under sky.secrets",
    ),
    "resources list": ({"resources": [1]}, "resources: must be a mapping"),
    "service text": ({"service": "x"}, "service: must be a mapping"),
    "envs list": ({"envs": ["A=b"]}, "envs: must be a mapping"),
    "mounts text": ({"file_mounts": "x"}, "file_mounts: must be a mapping"),
    "config number": ({"config": 3}, "config: must be a mapping"),
    "setup list": ({"setup": ["a"]}, "setup: must be text"),
    "NUL": ({"setup": "echo \0"}, "holds a NUL character"),
    "accelerator": ({"per_accelerator": {"H10O": {}}}, "did you mean 'H100'?"),
    "count": ({"per_accelerator": {"H100:x": {}}}, "must be NAME or NAME:COUNT"),
    "inner": ({"per_accelerator": {"H100": {"run": "x"}}}, "the plan starts the engine"),
    "twice inner": ({"per_accelerator": {"H100": {"per_accelerator": {}}}}, "is no field"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_the_plan_decides_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    """In a spec with file, line and key; in a plan.json that somebody edited, and when it is rendered."""
    block, said = BAD[case]
    lines = [what for _, what in sky_problems(block)]
    assert any(said in f"{'.'.join(map(str, path))}: {what}" for path, what in sky_problems(block))
    assert len(lines) == 1
    document = json.loads(dump_plan(plan_of(allocate(A10G, 1))))
    document["sky"] = block
    with pytest.raises(InputError, match="sky"):
        parse_plan(document, "plan.json")
    if isinstance(block, dict):
        with pytest.raises(InputError):
            render_services(with_sky(plan_of(allocate(A10G, 1)), block))


SPEC = """name: chat
model: Qwen/Qwen2.5-7B-Instruct
slo: {tpot_ms: 60, ttft_ms: 2000}
workload: {rate_rps: 2, distribution: azure-conv-2023}
resources: {accelerators: [A10G], infra: [aws]}
"""


def plan_with(folder: Path, block: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "s.yaml").write_text(SPEC + block)
    return melange_sky(
        "plan",
        "s.yaml",
        "--offline",
        cwd=folder,
        **environment,
    )


def test_skypilot_s_own_parser_reads_the_block(tmp_path: Path) -> None:
    done = plan_with(tmp_path, "sky:\n  resources: {disk_tier: fastest}\n")
    assert done.returncode == 2
    assert done.stderr.startswith("error: s.yaml:6: sky: SkyPilot refuses it: ")
    assert "fastest" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "chat-plan").exists()


MODELS = """
name: two
sky: {envs: {TEAM: a, ZONE: b}, per_accelerator: {L4: {resources: {labels: {gpu: l4}}}}}
models:
  - {name: plain, model: Qwen/Qwen2.5-7B-Instruct, slo: {tpot_ms: 80}, workload: {rate_rps: 1, input_tokens: 200, output_tokens: 100}}
  - name: own
    model: meta-llama/Llama-3.1-8B-Instruct
    slo: {tpot_ms: 80}
    workload: {rate_rps: 1, input_tokens: 200, output_tokens: 100}
    sky: {envs: {TEAM: c}, file_mounts: {/data: ./data}}
resources: {accelerators: [L4], infra: [gcp]}
"""


def test_a_model_of_several_has_fields_of_its_own_on_top(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "spec.yaml").write_text(MODELS)
    plain, own = load_spec(tmp_path / "spec.yaml").models
    assert plain.sky.task == {"envs": {"TEAM": "a", "ZONE": "b"}}
    assert own.sky.task == {
        "envs": {"TEAM": "c", "ZONE": "b"},
        "file_mounts": {"/data": str(tmp_path / "data")},
    }
    assert plain.sky.per_accelerator == own.sky.per_accelerator != {}
    assert own.sky_at.endswith("models[1].sky") and plain.sky_at.endswith(": sky")
    plan = plan_spec(tmp_path / "spec.yaml", PlanRequest(prices=OfferQuery(offline=True)))
    files = {name: yaml.safe_load(text)["envs"] for name, text in render_services(plan).items()}
    assert {name.split("-")[0]: envs["TEAM"] for name, envs in files.items()} == {
        "plain": "a",
        "own": "c",
    }
    (note,) = [w.message for w in plan.warnings if w.code == "sky"]
    assert note.startswith("sky.file_mounts: SkyServe replaces every replica")


def test_a_model_s_wrong_fields_are_told_at_their_place(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(MODELS.replace("envs: {TEAM: c}", "resources: {cpus: 4}"))
    with pytest.raises(
        InputError, match=r"models\[1\]\.sky\.resources\.cpus: it comes with the instance type"
    ):
        load_spec(tmp_path / "spec.yaml")


def test_from_spec_to_files_with_paths_of_the_spec_s_folder(tmp_path: Path) -> None:
    (tmp_path / "cfg").mkdir()
    done = plan_with(
        tmp_path,
        "sky:\n  file_mounts: {/cfg: ./cfg}\n  resources: {labels: {team: search}}\n"
        "  service: {readiness_probe: /v1/models}\n",
    )
    assert done.returncode == 0, done.stderr
    assert "sky.file_mounts: SkyServe replaces every replica at each" in " ".join(
        done.stdout.split()
    )
    for path in (tmp_path / "chat-plan").glob("chat-*.sky.yaml"):
        document = yaml.safe_load(path.read_text())
        assert document["file_mounts"] == {"/cfg": str(tmp_path / "cfg")}
        assert document["resources"]["labels"] == {"team": "search"}
        probe = document["service"]["readiness_probe"]
        assert probe["path"] == "/v1/models" and probe["initial_delay_seconds"] >= 900


def test_skypilot_s_fields_elsewhere_are_shown_their_place(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        SPEC.replace("infra: [aws]}", "infra: [aws], labels: {a: b}, volumes: {/m: v}, any_of: []}")
        + "file_mounts: {}\n"
    )
    done = melange_sky("plan", "s.yaml", "--offline", cwd=tmp_path)
    assert done.returncode == 2
    for said in (
        "'labels': SkyPilot's own fields go under sky: {resources: {labels: …}}",
        "'volumes': SkyPilot's own fields go under sky: {volumes: …}",
        "'any_of': the plan chooses it",
        "'file_mounts': SkyPilot's own fields go under sky: {file_mounts: …}",
    ):
        assert said in done.stderr


def test_a_replan_tells_what_it_would_restart(tmp_path: Path) -> None:
    label = "sky:\n  resources: {labels: {team: search}}\n"
    assert plan_with(tmp_path, label).returncode == 0
    same = plan_with(
        tmp_path, label.replace("  res", "  service: {readiness_probe: /v1/models}\n  res")
    )
    assert same.returncode == 0 and "changed since" not in same.stderr
    moved = plan_with(tmp_path, label.replace("search", "ads") + "  envs: {A: b}\n")
    assert moved.returncode == 0
    lines = [line for line in moved.stderr.splitlines() if line.startswith("note: chat-")]
    assert lines and all(
        "envs, resources.labels changed since the plan in chat-plan" in s for s in lines
    )


@pytest.mark.parametrize(
    ("size", "told"), [("50", True), ("50GB", True), ("1TB", False), ("400", False)]
)
def test_a_disk_below_what_the_weights_take_is_told(size: str, told: bool, tmp_path: Path) -> None:
    done = plan_with(tmp_path, f"sky:\n  resources: {{disk_size: {size}}}\n")
    assert done.returncode == 0, done.stderr
    said = "sky.resources.disk_size: 50 GB is less than the 100 GB" in " ".join(done.stdout.split())
    assert said is told
