"""One's own prices and SkyPilot's own spellings in a spec: taken as they are, or refused at their line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from melange_sky.errors import InputError
from melange_sky.pricing import OfferQuery, load_offers
from melange_sky.spec import Spec, load_spec
from tests.cli.runner import melange_sky

BASE: dict[str, Any] = {
    "name": "own",
    "model": "Qwen/Qwen2.5-7B-Instruct",
    "slo": {"tpot_ms": 60, "ttft_ms": 2000},
    "workload": {"rate_rps": 2, "distribution": "azure-conv-2023"},
    "resources": {"accelerators": ["H100"], "infra": ["k8s"]},
}
HEADER = (
    "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour,vcpus,memory_gib"
)
CSV = f"{HEADER}\nkubernetes,prod,h100-1,H100,1,2.5,16,128\n"
ROW = {"infra": "k8s/prod", "accelerators": "H100:1", "price_usd_per_hour": 2.5}


def spec_with(folder: Path, **over: Any) -> Path:
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(BASE | over, sort_keys=False))
    return path


def read(folder: Path, **over: Any) -> Spec:
    spec = load_spec(spec_with(folder, **over))
    assert isinstance(spec, Spec)
    return spec


def refused(folder: Path, **over: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, **over)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"A100": 8}, ["A100:8"]),
        ({"H100": 1, "L4": None}, ["H100:1", "L4:None"]),
        ("A100:8", ["A100:8"]),
        (["A100:8", "L4"], ["A100:8", "L4:None"]),
        (
            {"A100:8": None, "V100:1": None},
            ["A100:8", "V100:1"],
        ),  # SkyPilot's set, as YAML reads it
        ("NVIDIA-A100-SXM4-80GB:8", ["A100-80GB:8"]),
        (["nvidia-tesla-t4", "nvidia-l4"], ["T4:None", "L4:None"]),
    ],
)
def test_accelerators_as_skypilot_takes_them(given: Any, names: list[str], tmp_path: Path) -> None:
    choices = read(tmp_path, resources={"accelerators": given}).resources.accelerators
    assert [f"{c.name}:{c.count}" for c in choices] == names


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("k8s", ("kubernetes", None)),
        ("K8s/prod", ("kubernetes", "prod")),
        (
            "k8s/aws:eks:us-east-1:123456789012:cluster/prod",
            ("kubernetes", "aws:eks:us-east-1:123456789012:cluster/prod"),
        ),
        ("kubernetes/gke_proj_us-central1_c@x", ("kubernetes", "gke_proj_us-central1_c@x")),
        ("aws/*", ("aws", None)),
        ("aws/us-east-1", ("aws", "us-east-1")),
    ],
)
def test_infra_as_skypilot_takes_it(given: str, place: Any, tmp_path: Path) -> None:
    (infra,) = read(tmp_path, resources={"infra": [given]}).resources.infra
    assert (infra.cloud, infra.region) == place


def test_what_runs_today_in_skypilot_s_spelling(tmp_path: Path) -> None:
    (group,) = read(tmp_path, current=[{"accelerators": {"H100": 8}, "instances": 1}]).current
    assert (group.choice.name, group.choice.count) == ("H100", 8)


@pytest.mark.parametrize(
    "offers",
    [
        "my.csv",
        ["my.csv"],
        [ROW],
        ROW,
        [{**ROW, "accelerators": {"H100": 1}}],
        [{**ROW, "accelerators": "NVIDIA-H100-80GB-HBM3:1", "instance_type": "h100-1"}],
        [
            {
                "cloud": "k8s",
                "region": "prod",
                "instance_type": "h100-1",
                "accelerator": "nvidia-h100-80gb",
                "accelerator_count": 1,
                "price_usd_per_hour": 2.5,
            }
        ],
        ["other.csv", "my.csv"],
        ["my.csv", {**ROW, "infra": "k8s/other", "price_usd_per_hour": 9}],
    ],
)
def test_offers_in_a_file_or_in_rows_are_the_same(offers: Any, tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text(CSV)
    (tmp_path / "other.csv").write_text(CSV.replace("2.5", "7.5"))
    spec = read(tmp_path, offers=offers)
    book = load_offers(OfferQuery(own=spec.offers, infra=(("kubernetes", "prod"),), offline=True))
    (offer,) = book.offers
    assert (offer.cloud, offer.region, offer.instance_type) == ("kubernetes", "prod", "h100-1")
    assert (offer.accelerator, offer.accelerator_count) == ("H100", 1)
    assert offer.price_usd_per_hour == 2.5 and offer.is_own and not offer.blocked(False)


def test_the_flag_wins_over_the_spec(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text(CSV)
    flag = tmp_path / "flag.csv"
    flag.write_text(CSV.replace("2.5", "1.5"))
    spec = read(tmp_path, offers="my.csv")
    query = OfferQuery(
        own=spec.offers, offers_csv=flag, infra=(("kubernetes", None),), offline=True
    )
    (offer,) = load_offers(query).offers
    assert offer.price_usd_per_hour == 1.5


BAD_OFFERS: list[tuple[Any, str]] = [
    ("none.csv", "offers: no file at 'none.csv' (relative to the spec's folder)"),
    ([], "offers: must not be empty"),
    ([3], "offers[0]: must be a CSV file, or a row such as"),
    ([{"infra": "k8s", "accelerators": "H100:1"}], "offers[0]: lacks 'price_usd_per_hour'"),
    ([{"accelerators": "H100:1", "price_usd_per_hour": 1}], "offers[0]: lacks 'cloud' (or infra)"),
    ([{**ROW, "prize": 1}], "offers[0].prize: unknown column 'prize'; known: cloud"),
    ([{**ROW, "price_usd_per_hours": 1}], "(did you mean 'price_usd_per_hour'?)"),
    ([{**ROW, "price_usd_per_hour": "2,5"}], "offers[0].price_usd_per_hour: must be a number"),
    ([{**ROW, "price_usd_per_hour": True}], "offers[0].price_usd_per_hour: must be a number"),
    (
        [{**ROW, "price_usd_per_hour": float("inf")}],
        "offers[0].price_usd_per_hour: must be a number",
    ),
    ([{**ROW, "accelerators": "H10O:1"}], "offers[0].accelerators: unknown accelerator 'H10O'"),
    ([{**ROW, "accelerators": "H100:x"}], "must be NAME or NAME:COUNT"),
    ([{**ROW, "infra": "awz"}], "offers[0].infra: unknown cloud 'awz' (did you mean 'aws'?)"),
    ([{**ROW, "source": 3}], "offers[0].source: must be text"),
]


@pytest.mark.parametrize(("offers", "said"), BAD_OFFERS)
def test_bad_offers_are_refused_at_their_line(offers: Any, said: str, tmp_path: Path) -> None:
    told = refused(tmp_path, offers=offers)
    assert said in told and "\n" not in told


def run(folder: Path, *arguments: str) -> Any:
    return melange_sky(*arguments, cwd=folder)


@pytest.mark.usefixtures("kept_estimates")
def test_every_command_of_a_spec_knows_its_offers(tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text(CSV)
    spec_with(tmp_path, offers="my.csv")
    planned = run(tmp_path, "plan", "s.yaml", "--offline", "--format", "json")
    assert planned.returncode == 0, planned.stderr
    (allocation,) = json.loads(planned.stdout)["allocations"]
    assert allocation["price_source"] == "my.csv" and allocation["cloud"] == "kubernetes"
    folder = tmp_path / "own-plan"
    for command in (
        ("sweep", "s.yaml", "--rate", "2,4", "--offline"),
        ("explain", str(folder)),
        ("profile", "launch", "s.yaml", "--dry-run", "--offline"),
        ("prices", "list", "--spec", "s.yaml", "--infra", "k8s"),
        ("prices", "diff", "--plan", str(folder), "--spec", "s.yaml"),
        ("prices", "diff", "--plan", str(folder)),
    ):
        done = run(tmp_path, *command)
        assert done.returncode == 0, (command, done.stderr)
        assert "unknown now" not in done.stdout, (command, done.stdout)
    now = run(tmp_path, "prices", "diff", "--plan", str(folder), "--format", "json")
    assert json.loads(now.stdout)["change_fraction"] == 0


def test_an_own_cluster_without_offers_is_told_loudly(tmp_path: Path) -> None:
    resources = {"accelerators": ["A10G"], "infra": ["kubernetes", "aws"]}
    spec_with(tmp_path, resources=resources)
    done = run(tmp_path, "plan", "s.yaml", "--offline")
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    assert "nothing is planned on kubernetes: it has no offers. `melange-sky prices cluster" in told
    spec_with(tmp_path, resources={"infra": ["kubernetes"]})
    alone = run(tmp_path, "plan", "s.yaml", "--offline")
    assert alone.returncode == 4
    assert "no prices of kubernetes are known: it has no offers." in alone.stderr


def test_a_price_of_zero_is_not_free(tmp_path: Path) -> None:
    spec_with(tmp_path, offers=[{**ROW, "price_usd_per_hour": 0}])
    done = run(tmp_path, "plan", "s.yaml", "--offline")
    assert done.returncode == 3 and "price-zero" in done.stderr
    assert "and what is paid anyway under resources.fixed" in done.stderr
