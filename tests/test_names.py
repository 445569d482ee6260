"""One name, one answer: every spelling of a GPU at every door of the tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from melange_sky.accelerators import accelerator_table
from melange_sky.cli import main
from melange_sky.errors import InputError
from melange_sky.names.accelerators import (
    VARIANTS,
    accelerator_name,
    accelerator_names,
    canonical_accelerator,
    find_accelerator,
)
from melange_sky.names.clouds import CLOUDS, check_clouds, cloud_name
from melange_sky.names.limits import LimitKey, LimitKind, read_limit_key
from melange_sky.pricing.own_csv import read_own_csv
from melange_sky.pricing.select import Selection
from melange_sky.spec import load_spec

SPELLINGS = {
    "a100-40gb": "A100",
    "A100-40GB": "A100",
    "A100_40G": "A100",
    "NVIDIA A100-SXM4-40GB": "A100",
    "a100-80g": "A100-80GB",
    "A100-SXM4-80GB": "A100-80GB",
    "A100-80GB-PCIe": "A100-80GB",
    "NVIDIA A100 80GB PCIe": "A100-80GB",
    "a100_80gb": "A100-80GB",
    "H100-80GB": "H100",
    "h100-sxm5": "H100",
    "NVIDIA H100 80GB HBM3": "H100",
    "h100nvl": "H100-NVL",
    "h200-141gb": "H200",
    "v100-16gb": "V100",
    "Tesla V100-SXM2-32GB": "V100-32GB",
    "nvidia l4": "L4",
    "L4-24GB": "L4",
    "nvidia l40s": "L40S",
    "NVIDIA A10G": "A10G",
    "nvidia t4": "T4",
    "Tesla T4": "T4",
    "rtx a6000": "A6000",
    "RTXA6000": "A6000",
    "rtx-a6000": "A6000",
    "rtx-6000-ada": "RTX6000-Ada",
    "rtx6000ada": "RTX6000-Ada",
    "NVIDIA RTX 6000 Ada Generation": "RTX6000-Ada",
    "rtx-pro-6000": "RTXPRO6000",
    "RTX PRO 6000 96GB": "RTXPRO6000",
    "GeForce RTX 4090": "RTX4090",
    "rtx-4090": "RTX4090",
    "gh200-96gb": "GH200",
    "amd-instinct-mi300x": "MI300X",
}
"""What other tools write → SkyPilot's name."""

LABELS = {
    "nvidia-l4": "L4",
    "nvidia-t4": "T4",
    "nvidia-tesla-t4": "T4",
    "nvidia-tesla-a100": "A100",
    "nvidia-a100-80gb": "A100-80GB",
    "nvidia-h100-80gb": "H100",
    "nvidia-h100-mega-80gb": "H100-MEGA",
    "nvidia-h200-141gb": "H200",
    "NVIDIA-A100-SXM4-80GB": "A100-80GB",
    "NVIDIA-A100-SXM4-40GB": "A100",
    "NVIDIA-A100-PCIE-80GB": "A100-80GB",
    "NVIDIA-H100-80GB-HBM3": "H100",
    "NVIDIA-L40S": "L40S",
    "NVIDIA-A10G": "A10G",
    "NVIDIA-B200": "B200",
    "NVIDIA-RTX-A6000": "A6000",
    "NVIDIA-GeForce-RTX-4090": "RTX4090",
    "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition": "RTXPRO6000",
    "NVIDIA-GH200-480GB": "GH200",
    "Tesla-T4": "T4",
    "Tesla-V100-SXM2-32GB": "V100-32GB",
    "H100_NVLINK_80GB": "H100",
    "AMD_Instinct_MI300X_OAM": "MI300X",
}
"""How nodes of a Kubernetes cluster are labelled → SkyPilot's name, which takes these labels itself."""

Door = Callable[[str, Path], str]


def spec_of(resources: dict[str, object], folder: Path) -> Path:
    content = {
        "name": "chat",
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "slo": {"tpot_ms": 60},
        "workload": {"rate_rps": 1, "distribution": "azure-conv-2023"},
        "resources": resources,
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def by_spec(word: str, folder: Path) -> str:
    (choice,) = load_spec(spec_of({"accelerators": [word]}, folder)).resources.accelerators
    return choice.name


def by_fixed(word: str, folder: Path) -> str:
    fixed = [{"accelerators": f"{word}:2", "instances": 1}]
    (group,) = load_spec(spec_of({"fixed": fixed}, folder)).resources.fixed
    return group.accelerator


def by_limit(word: str, folder: Path) -> str:
    ((key, _),) = load_spec(spec_of({"limits": {word: 1}}, folder)).resources.limits
    assert key.kind is LimitKind.ACCELERATOR
    return key.name


def by_figures(word: str, folder: Path) -> str:
    assert find_accelerator(word).name in (
        accelerator_name(word),
        VARIANTS.get(accelerator_name(word)),
    )
    return accelerator_name(word)


def by_prices(word: str, folder: Path) -> str:
    """What `prices list --accelerators` selects among one offer of every name."""
    path = own_offers(accelerator_names(), folder)
    offers, _ = read_own_csv(path)
    selected = Selection(accelerators=(word,)).of({}, [], offers)
    return selected[0].accelerator


DOORS: dict[str, Door] = {
    "resources.accelerators": by_spec,
    "resources.fixed": by_fixed,
    "resources.limits": by_limit,
    "prices list": by_prices,
    "the table of figures": by_figures,
}


def own_offers(words: tuple[str, ...] | list[str], folder: Path) -> Path:
    path = folder / "offers.csv"
    rows = [f"lambda,r1,type-{i},{word},1,1.5" for i, word in enumerate(words)]
    header = "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_every_name_in_any_case(door: str, tmp_path: Path) -> None:
    for name in accelerator_names():
        for word in (name, name.lower(), name.upper()):
            assert DOORS[door](word, tmp_path) == name


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("word", LABELS)
def test_every_door_takes_the_label_of_a_kubernetes_node(
    door: str, word: str, tmp_path: Path
) -> None:
    assert DOORS[door](word, tmp_path) == LABELS[word]


@pytest.mark.parametrize("word", ["NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "NVIDIA-A10G-SHARED"])
def test_a_part_of_a_gpu_is_no_gpu(word: str) -> None:
    with pytest.raises(InputError, match="is a part of a GPU; a replica needs whole GPUs"):
        accelerator_name(word)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("word", SPELLINGS)
def test_every_door_says_the_right_name_for_every_spelling(
    door: str, word: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        DOORS[door](word, tmp_path)
    told = f"unknown accelerator '{word}': SkyPilot's name for it is '{SPELLINGS[word]}'"
    assert str(caught.value).endswith(told)


@pytest.mark.parametrize(
    "command",
    [
        "capacity --model meta-llama/Llama-3.1-8B --input 10 --output 10 --accelerators",
        "prices list --accelerators",
        "profile run --url http://127.0.0.1:9 --model m --input 10 --output 10 --accelerator",
    ],
)
@pytest.mark.parametrize("word", SPELLINGS)
def test_every_command_says_it_too(
    command: str,
    word: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), word])
    assert caught.value.code == 2
    told = f"unknown accelerator '{word}': SkyPilot's name for it is '{SPELLINGS[word]}'"
    assert told in capsys.readouterr().err


def test_offers_of_one_s_own_and_price_sources_may_spell_as_they_like(tmp_path: Path) -> None:
    offers, _ = read_own_csv(own_offers(list(SPELLINGS), tmp_path))
    assert [offer.accelerator for offer in offers] == list(SPELLINGS.values())
    assert {canonical_accelerator(word) for word in SPELLINGS} == set(SPELLINGS.values())


def test_no_canonical_name_is_taken_for_another_s() -> None:
    assert {name: canonical_accelerator(name) for name in accelerator_names()} == {
        name: name for name in accelerator_names()
    }
    assert canonical_accelerator("A100", "seeweb") == "A100-80GB"
    assert canonical_accelerator("Trainium2") == "Trainium2"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("A100-60GB", "; known: A10, "),
        ("H100-94GB", " (did you mean 'H100-NVL'?)"),
        ("H10O", " (did you mean 'H100'?)"),
        ("h1000", " (did you mean 'H100'?)"),
    ],
)
def test_a_hint_never_points_at_a_card_of_another_memory(word: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        accelerator_name(word)
    assert str(caught.value).startswith(f"unknown accelerator '{word}'{hint}")
    stated = [f for f in accelerator_table().values() if f"'{f.name}'" in hint]
    assert "GB" not in word or all(f"-{f.memory_gib:g}GB" in word for f in stated)


def test_clouds_are_one_list_with_one_answer() -> None:
    assert len(CLOUDS) == len(set(CLOUDS)) == 25
    assert [cloud_name(name.upper()) for name in CLOUDS] == list(CLOUDS)
    for ask in (cloud_name, lambda word: check_clouds((word,)), read_limit_key):
        with pytest.raises(InputError, match="'google'"):
            ask("google")
    assert cloud_name("k8s") == cloud_name("K8S") == "kubernetes"  # as SkyPilot takes it
    with pytest.raises(InputError) as caught:
        check_clouds(("google", "awz", "mine"), also=("mine",))
    assert caught.value.problems == (
        "unknown cloud 'google' (did you mean 'gcp'?)",
        "unknown cloud 'awz' (did you mean 'aws'?)",
    )


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("h100", LimitKey(kind=LimitKind.ACCELERATOR, name="H100"), "H100 GPUs"),
        ("h100-sxm", LimitKey(kind=LimitKind.ACCELERATOR, name="H100-SXM"), "H100-SXM GPUs"),
        ("AWS", LimitKey(kind=LimitKind.CLOUD, name="aws"), "instances on aws"),
        (
            "Aws/us-east-1",
            LimitKey(kind=LimitKind.REGION, name="aws/us-east-1"),
            "instances on aws/us-east-1",
        ),
        (
            "g5.xlarge",
            LimitKey(kind=LimitKind.INSTANCE_TYPE, name="g5.xlarge"),
            "instances of g5.xlarge",
        ),
    ],
)
def test_limit_keys_are_read_once(text: str, key: LimitKey, words: str) -> None:
    assert read_limit_key(text) == key == LimitKey.of(str(key))
    assert key.counted(2) == f"2 {words}"
    assert key.counted(1) == f"1 {words}".replace("GPUs", "GPU").replace("instances", "instance")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("H100:2", "a limit counts GPUs of an accelerator over all counts: leave out ':N'"),
        ("awss/us-east-1", "unknown cloud 'awss' (did you mean 'aws'?)"),
        ("aws/a/b", "'aws/a/b': write CLOUD or CLOUD/REGION; zones are left to SkyPilot"),
        ("aws/", "'aws/': '' is not a region's name"),
        (
            "awss",
            "'awss' is no accelerator, cloud, cloud/region or instance type (did you mean 'aws'?)",
        ),
        ("x", "'x' is no accelerator, cloud, cloud/region or instance type"),
    ],
)
def test_what_cannot_be_a_limit_s_key_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        read_limit_key(text)
    assert str(caught.value) == told
