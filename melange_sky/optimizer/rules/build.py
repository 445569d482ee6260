"""The integer program, put together from the rules: each states its inequality in its docstring.

Indices: b bucket, k column (an option of one model). Variables:

* x_k ∈ {0, 1, …}    instances of column k
* y_b_k ∈ [0, 1]     share of bucket b's rate on column k; integer slices of it where sliced
* f_p_k ∈ {0, 1, …}  instances of k that paid group p pays for
* s<n>_b_k ∈ [0, 1]  as y, once the instances of loss scenario n are gone
* e_k_n ∈ {0, 1}     1 if there are at least n instances of k
* c_k ≥ 0            instances of k started or stopped against a running fleet
* g_k ∈ {0, 1}       1 if there is any instance of k or of what is like it, with spares of their own
* t_k ∈ {0, 1}       1 if there is any instance of k; h_k ∈ {0, 1}: 1 only if there is one

Variables are named by index (LP files fold distinct option names into one), constraints in words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.optimizer.program.integer_program import IntegerProgram, share_variables
from melange_sky.optimizer.program.linear import Linear
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.rules.serving import Serve

if TYPE_CHECKING:
    from melange_sky.optimizer.problem.canonical import Canonical
    from melange_sky.optimizer.problem.question import Problem, SolveOptions
    from melange_sky.optimizer.program.integer_program import Scenario


def build_program(
    canonical: Canonical,
    problem: Problem,
    options: SolveOptions,
    only: frozenset[str] | None = None,
    scenarios: tuple[Scenario, ...] = (),
    *,
    own_spares: bool = False,
) -> IntegerProgram:
    """Build the program with its goal; `only` names the rules that it holds (default all).

    Losses are those of `scenarios`, or every one with `own_spares`: see `rules/losses.py`.
    """
    sliced = options.assignment == "sliced"
    rules = RuleSet.of(problem, options)
    bounds = rules.instance_bounds(canonical)
    offsets = [0]
    for buckets in canonical.buckets:
        offsets.append(offsets[-1] + len(buckets))
    lp = Linear()
    program = IntegerProgram(
        lp=lp,
        canonical=canonical,
        problem=problem,
        options=options,
        slices=options.slice_factor if sliced else 1,
        bounds=bounds,
        offsets=offsets,
        scenarios=scenarios,
        own_spares=own_spares,
        # With shares alone nothing holds the instances, and whole ones would make an LP a MIP.
        x=[lp.add(f"x_{k}", 0.0, bound, whole=only is None) for k, bound in enumerate(bounds)],
        y={},
    )
    if only is None or Serve.name in only:
        program.y.update(share_variables(program, "y"))
    for rule in rules.rules:
        if only is None or rule.name in only:
            rule.add_rows(program)
    lp.goal = program.goal_terms()
    return program
