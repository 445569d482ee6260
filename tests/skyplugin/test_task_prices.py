"""What the guard says a task costs, beside what SkyPilot's own optimizer makes of the same task."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.planfile import dump_plan
from melange_sky.plans import Plan
from tests.cli.runner import ROOT
from tests.factories import make_offer, make_plan
from tests.skycatalog import write_catalogs

SCRIPT = Path(__file__).with_name("sky_prices.py")
G5 = make_offer()
G5_WEST = make_offer(region="us-west-2", price_usd_per_hour=0.9)
G5_LARGER = make_offer(instance_type="g5.2xlarge", price_usd_per_hour=1.212)
A2 = make_offer(
    cloud="gcp",
    region="us-central1",
    instance_type="a2-ultragpu-1g",
    accelerator="A100-80GB",
    price_usd_per_hour=5.0688,
    vcpus=12,
    memory_gib=170,
)
OWN = make_offer(
    cloud="kubernetes",
    region="ours",
    instance_type="l4-1",
    accelerator="L4",
    price_usd_per_hour=0.3,
    spot_usd_per_hour=None,
    source="own cluster",
)
PRICING = {"cpu": 0.05, "memory": 0.01, "accelerators": {"H100": 2.5}}
CONFIG = {
    "kubernetes": {
        "pricing": PRICING,
        "context_configs": {"ours": {"pricing": {"accelerators": {"T4": 0.4}}}},
    },
    "slurm": {"pricing": {"accelerators": {"H100": 1.5}}},
}
TASKS: dict[str, dict[str, Any]] = {
    "aws type": {"infra": "aws/us-east-1", "instance_type": "g5.2xlarge"},
    "aws type, own limit": {
        "infra": "aws/us-east-1",
        "instance_type": "g5.xlarge",
        "max_hourly_cost": 0.5,
    },
    "aws type, any region": {"infra": "aws", "instance_type": "g5.xlarge"},
    "aws gpu, spot": {"infra": "aws/us-east-1", "accelerators": "A10G:1", "use_spot": True},
    "gcp gpu": {"infra": "gcp/us-central1", "accelerators": "A100-80GB:1"},
    "gcp gpu, own limit": {"infra": "gcp", "accelerators": "A100-80GB:1", "max_hourly_cost": 1},
    "gcp type": {
        "infra": "gcp/us-central1",
        "instance_type": "a2-ultragpu-1g",
        "accelerators": "A100-80GB:1",
    },
    "gcp has none": {"infra": "gcp", "accelerators": "A10G:1"},
    "k8s gpu": {"infra": "k8s/ours", "accelerators": "H100:2"},
    "k8s gpu, own limit": {"infra": "k8s", "accelerators": "H100:2", "max_hourly_cost": 1},
    "k8s gpu of its context": {"infra": "k8s/ours", "accelerators": "T4:1"},
    "k8s type": {"infra": "k8s/ours", "instance_type": "4CPU--16GB--H100:1"},
    "k8s cpu": {"infra": "k8s/ours", "cpus": 4, "memory": 8},
    "k8s gpu of the plan": {"infra": "k8s/ours", "accelerators": "L4:1"},
    "k8s type of the plan": {"infra": "k8s/ours", "instance_type": "4CPU--16GB--L4:1"},
    "k8s gpu without a price": {"infra": "k8s/ours", "accelerators": "V100:1"},
    "slurm gpu": {"infra": "slurm/lab", "accelerators": "H100:2"},
    "slurm gpu without a price": {"infra": "slurm/lab", "accelerators": "V100:1"},
    "anywhere": {"accelerators": "H100:1"},
    "anywhere without a price": {"accelerators": "A10G:1"},
}
NOWHERE = {"slurm gpu", "slurm gpu without a price", "gcp has none"}
"""What SkyPilot's optimizer finds nothing for here."""


def the_plan() -> Plan:
    """A plan with a candidate on an own cluster, at the price that its owner gave."""
    made = make_plan()
    (model,) = made.models
    first, *others = model.candidates
    own = replace(first.option, name="l4", offer=OWN, accelerator="L4", price_usd_per_hour=0.3)
    candidates = (first, *others, replace(first, option=own))
    return replace(made, models=(replace(model, candidates=candidates),))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    home = tmp_path_factory.mktemp("home")
    write_catalogs(home, [G5, G5_WEST, G5_LARGER, A2])
    with (home / ".sky/catalogs/v8/common/accelerators.csv").open("a") as names:
        names.write("".join(f"{name},['Kubernetes']\n" for name in ("H100", "L4", "T4", "V100")))
    (home / ".sky" / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    kept = ("PATH", "PYTHONPATH", "LANG")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        input=json.dumps({"plan": dump_plan(the_plan()), "tasks": TASKS}),
        env={**env, "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=ROOT,
    )
    assert "ANSWER " in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]
    assert "(V100:1) on kubernetes/ours costs, so it passes" in done.stdout + done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.rpartition("ANSWER ")[2])
    return found


@pytest.mark.parametrize(
    ("task", "price", "source"),
    [
        ("aws type", 1.212, "SkyPilot's catalog"),
        ("aws type, own limit", 1.006, "SkyPilot's catalog"),
        ("aws type, any region", 0.9, "SkyPilot's catalog"),
        ("aws gpu, spot", 0.4, "SkyPilot's catalog"),
        ("gcp gpu", 5.0688, "SkyPilot's catalog"),
        ("gcp gpu, own limit", 5.0688, "SkyPilot's catalog"),
        ("gcp type", 5.0688, "SkyPilot's catalog"),
        ("k8s gpu", 5.0, "kubernetes.pricing"),
        ("k8s gpu, own limit", 5.0, "kubernetes.pricing"),
        ("k8s gpu of its context", 0.4, "kubernetes.pricing"),
        ("k8s type", 2.5, "kubernetes.pricing"),
        ("k8s cpu", 0.28, "kubernetes.pricing"),
        ("k8s gpu of the plan", 0.3, "a plan's own price"),
        ("k8s type of the plan", 0.3, "a plan's own price"),
        ("slurm gpu", 3.0, "slurm.pricing"),
        ("anywhere", 2.5, "kubernetes.pricing"),
    ],
)
def test_a_task_costs_what_skypilots_own_optimizer_reckons(
    answers: dict[str, dict[str, Any]], task: str, price: float, source: str
) -> None:
    found = answers[task]
    assert found["price"] == pytest.approx(price) and found["source"] == source
    assert found["doubt"] is None and found["offered"]
    if task not in NOWHERE and source != "a plan's own price":
        assert found["sky"] == pytest.approx(price)


@pytest.mark.parametrize(
    ("task", "sentence"),
    [
        (
            "k8s gpu without a price",
            (
                "train: nobody knows what (V100:1) on kubernetes/ours costs, so it passes without a look at its price; "
                "state kubernetes.pricing in SkyPilot's config.yaml"
            ),
        ),
        (
            "slurm gpu without a price",
            (
                "train: nobody knows what (V100:1) on slurm/lab costs, so it passes without a look at its price; "
                "state slurm.pricing in SkyPilot's config.yaml"
            ),
        ),
        (
            "anywhere without a price",
            (
                "train: nobody knows what (A10G:1) costs, so it passes without a look at its price; "
                "name a cloud, or state kubernetes.pricing in SkyPilot's config.yaml"
            ),
        ),
    ],
)
def test_what_nobody_has_priced_is_told_and_never_zero(
    answers: dict[str, dict[str, Any]], task: str, sentence: str
) -> None:
    assert (answers[task]["price"], answers[task]["doubt"]) == (None, sentence)
    assert answers[task]["guard"] is None
    if task not in NOWHERE:
        assert answers[task]["sky"] == 0.0  # SkyPilot takes it for free


def test_what_no_cloud_offers_is_skypilots_to_refuse(answers: dict[str, dict[str, Any]]) -> None:
    found = answers["gcp has none"]
    assert (found["price"], found["doubt"], found["offered"]) == (None, None, False)
    assert found["sky"] == "ResourcesUnavailableError"


def test_the_guard_refuses_by_these_prices(answers: dict[str, dict[str, Any]]) -> None:
    refused = {name: found["guard"] for name, found in answers.items() if found["guard"]}
    assert refused == {
        "aws type, own limit": (
            "melange-sky: train: g5.xlarge (A10G:1) on aws/us-east-1 costs $1.006/h (SkyPilot's catalog), more than "
            "the task's own max_hourly_cost of 0.5, which SkyPilot does not heed here."
        ),
        "gcp gpu": (
            "melange-sky: train would cost $5.07/h (1 × $5.069 for (A100-80GB:1) on gcp/us-central1, SkyPilot's "
            "catalog), and 4 are allowed."
        ),
        "gcp gpu, own limit": (
            "melange-sky: train: (A100-80GB:1) on gcp costs $5.069/h (SkyPilot's catalog), more than the task's own "
            "max_hourly_cost of 1, which SkyPilot does not heed here."
        ),
        "gcp type": (
            "melange-sky: train would cost $5.07/h (1 × $5.069 for a2-ultragpu-1g (A100-80GB:1) on gcp/us-central1, "
            "SkyPilot's catalog), and 4 are allowed."
        ),
        "k8s gpu": (
            "melange-sky: train would cost $5.00/h (1 × $5.000 for (H100:2) on kubernetes/ours, kubernetes.pricing), "
            "and 4 are allowed."
        ),
        "k8s gpu, own limit": (
            "melange-sky: train: (H100:2) on kubernetes costs $5.000/h (kubernetes.pricing), more than the task's own "
            "max_hourly_cost of 1, which SkyPilot does not heed here."
        ),
    }
