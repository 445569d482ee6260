"""One description, two solvers: what HiGHS gets as arrays is what PuLP writes and CBC solves."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import highspy
import numpy as np
import pytest

from melange_sky.errors import InfeasibleError
from melange_sky.optimizer import SolveOptions, optimize
from melange_sky.optimizer.problem.canonical import canonical_form
from melange_sky.optimizer.program.highs import as_highs
from melange_sky.optimizer.program.pulp_cbc import as_pulp
from melange_sky.optimizer.rules.build import build_program
from tests.optimizer.test_brute_force import CASES as RULES
from tests.optimizer.test_brute_force import hash_of, random_problem
from tests.optimizer.test_goldens import BASE, CASES


def columns_and_rows(lp: highspy.HighsLp) -> tuple[dict[str, object], dict[str, object]]:
    """Return a HiGHS model by names, whatever order its columns and rows are in."""
    matrix = lp.a_matrix_
    names = list(lp.col_names_)
    integrality = list(lp.integrality_) or [highspy.HighsVarType.kContinuous] * lp.num_col_
    columns: dict[str, object] = {
        name: (lp.col_cost_[c], lp.col_lower_[c], lp.col_upper_[c], integrality[c])
        for c, name in enumerate(names)
    }
    dense = np.zeros((lp.num_row_, lp.num_col_))
    start, by_row = matrix.start_, matrix.format_ == highspy.MatrixFormat.kRowwise
    for major in range(len(start) - 1):
        for at in range(start[major], start[major + 1]):
            r, c = (major, matrix.index_[at]) if by_row else (matrix.index_[at], major)
            dense[r, c] = matrix.value_[at]
    rows: dict[str, object] = {
        name: (
            lp.row_lower_[r],
            lp.row_upper_[r],
            {names[c]: dense[r, c] for c in np.flatnonzero(dense[r])},
        )
        for r, name in enumerate(lp.row_names_)
    }
    return columns, rows


@pytest.mark.parametrize("name", CASES)
def test_highs_reads_the_reviewed_file_as_what_it_is_handed(name: str, tmp_path: Path) -> None:
    constraints, options = CASES[name]
    problem = replace(BASE, constraints=constraints)
    scenarios = (((0, 1),), ((1, 1),)) if constraints.spare else ()
    linear = build_program(canonical_form(problem), problem, options, scenarios=scenarios).lp
    handed = as_highs(linear)
    handed.col_names_ = linear.names
    handed.row_names_ = [row.name for row in linear.rows]
    path = tmp_path / "written.lp"
    as_pulp(linear)[0].writeLP(str(path))
    reader = highspy.Highs()
    reader.setOptionValue("output_flag", False)
    assert reader.readModel(str(path)) == highspy.HighsStatus.kOk
    (ours, our_rows), (read, read_rows) = columns_and_rows(handed), columns_and_rows(reader.getLp())
    assert set(ours) == set(read)
    for column, (*figures, kind) in ours.items():  # type: ignore[misc]
        *read_figures, read_kind = read[column]  # type: ignore[misc]
        assert figures == pytest.approx(read_figures, rel=1e-10), column  # LP files hold 12 digits
        assert kind == read_kind, column
    assert set(our_rows) == set(read_rows)
    for row, (lower, upper, terms) in our_rows.items():  # type: ignore[misc]
        read_lower, read_upper, read_terms = read_rows[row]  # type: ignore[misc]
        assert (lower, upper) == pytest.approx((read_lower, read_upper), rel=1e-10), row
        assert terms == pytest.approx(read_terms, rel=1e-10), row


@pytest.mark.parametrize("case", [None, *RULES])
def test_both_solvers_find_the_same_least_cost_and_simplest_fleet(case: str | None) -> None:
    rng = random.Random(hash_of(case or "plain") + 31)
    problem = random_problem(rng, options=3, buckets=3)
    if case is not None:
        problem = replace(problem, constraints=RULES[case](rng))
    found = []
    for solver in ("highs", "cbc"):
        try:
            solution = optimize(problem, SolveOptions(solver=solver))  # type: ignore[arg-type]
        except InfeasibleError as error:
            found.append(repr(type(error)))
            continue
        mix = [
            (a.candidate.option.name, a.instances) for mine in solution.allocations for a in mine
        ]
        found.append((round(solution.cost_usd_per_hour, 9), mix))  # type: ignore[arg-type]
    assert found[0] == found[1]
