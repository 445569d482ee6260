"""Reservations in SkyPilot's configuration: found where SkyPilot finds them, and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from melange_sky.constraints import InstanceGroup
from melange_sky.errors import InputError
from melange_sky.planner.options import PlannedOffer
from melange_sky.planner.request import PlanRequest
from melange_sky.planner.reservations import reserved_offers
from melange_sky.pricing import OfferQuery
from melange_sky.skyserve.reservations import configured_reservations
from tests.factories import make_offer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("SKYPILOT_CONFIG", "SKYPILOT_GLOBAL_CONFIG", "SKYPILOT_PROJECT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".sky").mkdir()
    return tmp_path


def found() -> dict[str, tuple[tuple[str, ...], bool]]:
    return {r.cloud: (r.names, r.prioritize) for r in configured_reservations()}


def test_none_are_configured(folder: Path) -> None:
    assert found() == {}
    (folder / ".sky" / "config.yaml").write_text(
        "aws: {vpc_name: x}\nazure: {specific_reservations: [a]}\n"
    )
    assert found() == {}


def test_project_over_user_over_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".sky" / "config.yaml").write_text(
        "aws: {prioritize_reservations: true, specific_reservations: [cr-1]}\n"
    )
    assert found() == {"aws": (("cr-1",), True)}
    (folder / ".sky.yaml").write_text(
        "aws: {specific_reservations: [cr-2]}\ngcp: {specific_reservations: [projects/p/r]}\n"
    )
    assert found() == {"aws": (("cr-2",), True), "gcp": (("projects/p/r",), False)}
    other = folder / "other.yaml"
    other.write_text("gcp: {prioritize_reservations: true}\n")
    monkeypatch.setenv("SKYPILOT_GLOBAL_CONFIG", str(other))
    assert found() == {"aws": (("cr-2",), False), "gcp": (("projects/p/r",), True)}
    monkeypatch.setenv("SKYPILOT_CONFIG", str(other))
    assert found() == {"gcp": ((), True)}


@pytest.mark.parametrize("text", ["- a\n", "aws: [\n", "\xff"])
def test_a_configuration_that_is_none_is_told(text: str, folder: Path) -> None:
    (folder / ".sky.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="SkyPilot's configuration"):
        configured_reservations()
    assert "SkyPilot's configuration" in notes([PlannedOffer(offer=make_offer())])[0]


def notes(offers: list[Any], fixed: list[InstanceGroup] | None = None) -> list[str]:
    offline = PlanRequest(prices=OfferQuery(offline=True))
    counted, told = reserved_offers(offers, fixed or [], offline)
    assert counted == []
    return [note.message for note in told]


def test_what_it_means_is_told_where_the_plan_may_rent(folder: Path) -> None:
    (folder / ".sky" / "config.yaml").write_text("aws: {specific_reservations: [cr-1, cr-2]}\n")
    here = PlannedOffer(offer=make_offer())
    (said,) = notes([here])
    assert "reservations on aws (cr-1, cr-2; " in said and "(g5.xlarge)" in said
    assert "this plan counts the full price; state what you hold under resources.fixed" in said
    assert notes([PlannedOffer(offer=make_offer(), use_spot=True)]) == []
    assert notes([PlannedOffer(offer=make_offer(cloud="gcp"))]) == []
    group = InstanceGroup(accelerator="A10G", accelerator_count=1, cloud="aws", instances=2)
    (said,) = notes([here], [group])
    assert "counts as paid what resources.fixed states (2 x A10G:1 on aws)" in said
    assert notes([here], [InstanceGroup(accelerator="A10G", cloud="gcp", instances=2)]) == notes(
        [here]
    )
