"""A fleet's id: made once, kept by replans into the same folder, never shared by two specs of one name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from melange_sky.planfile import load_plan
from melange_sky.planner.fleet_ids import new_fleet_id
from melange_sky.planner.plan_files import write_plan
from melange_sky.plans import Plan
from tests.factories import make_plan


def marks(folder: Path) -> set[str | None]:
    files = folder.glob("*.sky.yaml")
    documents = [yaml.safe_load(file.read_text()) for file in files]
    return {document["_metadata"]["melange_sky"].get("id") for document in documents}


def written(folder: Path, plan: Plan) -> str:
    """Write a plan as a new one would come; return the id that plan.json and services all bear."""
    shown = write_plan(replace(plan, fleet_id=new_fleet_id(plan)), folder)
    assert load_plan(folder).fleet_id == shown.fleet_id
    assert marks(folder) == {shown.fleet_id}
    assert shown.fleet_id is not None
    return shown.fleet_id


def test_a_replan_into_the_folder_keeps_the_id(tmp_path: Path) -> None:
    first = written(tmp_path / "a", make_plan())
    assert written(tmp_path / "a", make_plan(headroom=0.2)) == first
    assert written(tmp_path / "b", make_plan()) != first


def test_another_name_in_the_folder_is_another_fleet(tmp_path: Path) -> None:
    plan = make_plan(lists_models=True)
    assert written(tmp_path / "a", plan) != written(tmp_path / "a", replace(plan, name="other"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "chat", "fleet_id": "../x"}'])
def test_an_earlier_plan_that_cannot_be_read_gives_none(tmp_path: Path, text: str) -> None:
    first = written(tmp_path / "a", make_plan())
    (tmp_path / "a" / "plan.json").write_text(text)
    shown = write_plan(replace(make_plan(), fleet_id=None), tmp_path / "a", force=True)
    assert shown.fleet_id not in (None, first)


def test_with_the_time_fixed_the_same_work_has_the_same_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert new_fleet_id(make_plan()) != new_fleet_id(make_plan())
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert new_fleet_id(make_plan()) == new_fleet_id(make_plan())
    other = make_plan(lists_models=True, name="other")
    assert new_fleet_id(make_plan()) != new_fleet_id(other)
