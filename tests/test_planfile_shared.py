"""What candidates of several models share stands once in `plan.json`, and comes back without loss."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan, parse_plan
from melange_sky.planfile.write import _candidate_documents
from tests.factories import make_capacity, make_engine, make_model_plan, make_option, make_plan

if TYPE_CHECKING:
    from melange_sky.plans import ModelPlan, Plan


def of_models(*models: ModelPlan) -> Plan:
    return make_plan(models=models, lists_models=True)


def several(count: int) -> Plan:
    """Models with the same candidates, one of which is eight engines like those of another."""
    single = make_capacity([[4.0, 0.3], [None, 0.1]], make_option("a10g"))
    copies = make_option("a10g-8", accelerator_count=8, engine=make_engine(data_parallel=8))
    eight = replace(
        single,
        option=copies,
        cells=tuple(tuple(cell.scaled(8) for cell in row) for row in single.cells),
    )
    plain = make_model_plan()
    candidates = (eight, single, *plain.candidates[1:])
    model = replace(
        plain,
        candidates=candidates,
        allocations=(replace(plain.allocations[0], candidate=eight), plain.allocations[1]),
    )
    return of_models(*(replace(model, name=f"m{n}") for n in range(count)))


def document_of(plan: Plan) -> Any:
    return json.loads(dump_plan(plan))


def test_shared_candidates_come_back_without_loss() -> None:
    plan = several(3)
    document = document_of(plan)
    assert parse_plan(document, "p") == plan
    assert len(document["shared_rates"]) == 2, "eight engines are told as so many of one"
    assert len(document["shared_options"]) == 3
    assert document["models"][2]["candidates"][0]["engines"] == 8


def test_one_more_model_adds_no_candidates_to_the_file() -> None:
    few, many = (len(dump_plan(several(count))) for count in (10, 50))
    whole = sum(
        len(json.dumps(_candidate_documents([c])[0])) for c in several(1).models[0].candidates
    )
    assert (many - few) / 40 < len(dump_plan(several(1))) - whole / 2


def test_a_document_with_whole_candidates_is_read_too() -> None:
    """Plans of several models written before they shared anything."""
    plan = several(2)
    document = document_of(plan)
    for key in [key for key in document if key.startswith("shared_")]:
        del document[key]
    for model, planned in zip(document["models"], plan.models, strict=True):
        model["candidates"] = [_candidate_documents([c])[0] for c in planned.candidates]
    assert parse_plan(json.loads(json.dumps(document)), "p") == plan


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("models", 1, "candidates", 0), 3, r"models\.1\.candidates\.0: must say which option"),
        (("models", 0, "candidates", 2, "option"), 3, r"candidates\.2\.option: must be a place in"),
        (("models", 0, "candidates", 0, "rates"), -1, r"candidates\.0\.rates: must be a place in"),
        (("models", 0, "candidates", 0, "rates"), True, r"rates: must be a place in shared_rates"),
        (("models", 0, "candidates", 0, "engine"), "x", r"engine: must be a place in shared_eng"),
        (("models", 0, "candidates", 0, "engines"), 0, r"engines: Input should be greater"),
        (("shared_options", 0, "offer"), 99, r"shared_options\.0\.offer: must be a place in"),
        (("shared_options", 0, "fallbacks"), 1, r"shared_options\.0\.fallbacks: must be a list"),
        (("shared_options", 0), None, r"shared_options\.0: must be an object"),
        (("shared_rates", 0, "max_rate_rps"), [1], r"shared_rates\.0\.max_rate_rps: must be rows"),
        (("shared_rates", 0, "max_rate_rps"), [[1.0]], r"max_rate_rps: must have 2 rows of 2"),
        (("shared_rates",), {}, r"rates: must be a place in shared_rates"),
    ],
)
def test_a_wrong_part_is_one_line_with_its_key(
    path: tuple[str | int, ...], value: object, message: str
) -> None:
    document = document_of(several(2))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message) as refused:
        parse_plan(document, "p")
    assert str(refused.value).startswith("p: ")
