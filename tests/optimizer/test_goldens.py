"""One golden LP file per constraint: what the model says, readable and reviewed.

UPDATE_GOLDENS=1 rewrites them and fails, so that a rewritten file is looked at before it passes.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from melange_sky.capacities import CapacityCell
from melange_sky.optimizer import (
    Constraints,
    InstanceGroup,
    Problem,
    Robustness,
    SolveOptions,
    SpotPolicy,
    StayClose,
)
from melange_sky.optimizer.problem.canonical import canonical_form
from melange_sky.optimizer.program.pulp_cbc import as_pulp
from melange_sky.optimizer.rules.build import build_program
from melange_sky.optimizer.rules.registry import RULES
from tests.optimizer.factories import at_most, demand, placed

GOLDENS = Path(__file__).parent / "goldens"


def _levelled(cell: CapacityCell, level: float, *late: tuple[float, float]) -> CapacityCell:
    """The cell with nine tenths of its rate at a level above, and what it carries late."""
    return replace(cell, levels=((level, 0.9 * (cell.max_rate_rps or 0.0)), *late))


BASE = Problem(
    demands=(
        demand(
            [[3.0, 1.0]],
            placed("h100", 10.0, [[4.0, 2.0]], "aws/us-east-1", accelerator="H100"),
            placed(
                "l4x2",
                1.6,
                [[2.0, None]],
                "gcp/us-central1",
                accelerator="L4",
                accelerator_count=2,
                use_spot=True,
            ),
        ),
    ),
    headroom=0.1,
)

_H100, _L4X2 = BASE.demands[0].options
LATE = replace(
    BASE,
    demands=(
        replace(
            BASE.demands[0],
            target=0.95,
            level=0.99,
            options=(
                replace(_H100, cells=(tuple(_levelled(c, 0.99) for c in _H100.cells[0]),)),
                replace(
                    _L4X2,
                    cells=(
                        (
                            _levelled(_L4X2.cells[0][0], 0.99, (0.475, 4.0)),
                            replace(_L4X2.cells[0][1], levels=((0.0, 0.5),)),
                        ),
                    ),
                ),
            ),
        ),
    ),
)
"""At the level of 99 %: the L4s serve the first bucket in time or half late, the second late alone."""

CASES: dict[str, tuple[Constraints, SolveOptions]] = {
    "serve": (Constraints(), SolveOptions()),
    "load": (Constraints(), SolveOptions(assignment="sliced", slice_factor=4)),
    "robust_load": (
        Constraints(),
        SolveOptions(robustness=Robustness(throughput_error=0.2, budget=1)),
    ),
    "attainment": (Constraints(spare=1), SolveOptions()),
    "limits": (
        Constraints(limits=at_most(("L4", 4), ("aws", 3), ("gcp/us-central1", 2))),
        SolveOptions(),
    ),
    "budget": (Constraints(budget_usd_per_hour=25.0), SolveOptions()),
    "fixed": (Constraints(fixed=(InstanceGroup(accelerator="H100", instances=2),)), SolveOptions()),
    "minimum": (
        Constraints(minimum=(InstanceGroup(accelerator="L4", accelerator_count=2, instances=2),)),
        SolveOptions(),
    ),
    "min_replicas": (Constraints(min_replicas=3), SolveOptions()),
    "region_share": (Constraints(max_share_per_region=0.7), SolveOptions()),
    "cloud_share": (Constraints(max_share_per_cloud=0.6), SolveOptions()),
    "spot_share": (
        Constraints(spot=SpotPolicy(max_fraction=0.3, interruption_rate=0.5, recovery_s=600)),
        SolveOptions(),
    ),
    "spare": (Constraints(spare=1), SolveOptions()),
    "max_option_types": (Constraints(max_option_types=1), SolveOptions()),
    "min_option_types": (Constraints(min_option_types=2), SolveOptions()),
    "stay_close": (
        Constraints(),
        SolveOptions(
            stay_close=StayClose(instances=(("chat", "h100", 2),), switch_usd_per_hour=0.5)
        ),
    ),
}


def lp_text(name: str, folder: Path) -> str:
    constraints, options = CASES[name]
    problem = replace(LATE if name == "attainment" else BASE, constraints=constraints)
    scenarios = (((0, 1),), ((1, 1),)) if constraints.spare else ()
    program = build_program(canonical_form(problem), problem, options, scenarios=scenarios)
    path = folder / f"{name}.lp"
    as_pulp(program.lp)[0].writeLP(str(path))
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_model_is_as_reviewed(name: str, tmp_path: Path) -> None:
    text = lp_text(name, tmp_path)
    golden = GOLDENS / f"{name}.lp"
    if os.environ.get("UPDATE_GOLDENS") == "1":
        golden.write_text(text, encoding="utf-8")
        pytest.fail(f"{golden.name} was rewritten; look at it and run again without UPDATE_GOLDENS")
    assert text == golden.read_text(encoding="utf-8")


def test_every_constraint_has_its_golden_and_no_golden_is_left_over() -> None:
    assert {rule.name for rule in RULES} <= set(CASES)
    assert {path.stem for path in GOLDENS.glob("*.lp")} == set(CASES)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"serve"}))
def test_each_case_adds_rows_or_terms_to_the_bare_model(name: str, tmp_path: Path) -> None:
    assert lp_text(name, tmp_path) != lp_text("serve", tmp_path)
