"""Problems without a fleet: each names its true cause in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from melange_sky.errors import InfeasibleError, InputError
from melange_sky.optimizer import (
    Constraints,
    InstanceGroup,
    Problem,
    Robustness,
    SolveOptions,
    SpotPolicy,
    optimize,
)
from tests.optimizer.factories import at_most, demand, option, placed


def two_places(**over: Any) -> Problem:
    """4 req/s: two H100s' worth, or four A10Gs' and two of those fit what an H100 fits."""
    values = {"constraints": Constraints(), "headroom": 0.0} | over
    return Problem(
        demands=(
            demand(
                [[3.0, 1.0]],
                placed("h100", 10.0, [[2.0, 2.0]], "aws/us-east-1", accelerator="H100"),
                placed("a10g", 3.0, [[1.0, None]], "gcp/us-central1", accelerator="A10G"),
            ),
        ),
        **values,
    )


CASES: dict[str, tuple[Problem, SolveOptions, list[str]]] = {
    "a bucket that nothing serves": (
        Problem(demands=(demand([[1.0, 1.0]], option("L4", 1.0, [[1.0, None]])),)),
        SolveOptions(),
        ["no option serves (input 0-100, output 50-100)", "L4:1 (does not fit)"],
    ),
    "no option at all": (
        Problem(demands=(demand([[1.0]]),)),
        SolveOptions(),
        ["no option to choose from"],
    ),
    "an accelerator's limit": (
        two_places(constraints=Constraints(limits=at_most(("H100", 0)))),
        SolveOptions(),
        ["the limit of 0 H100 GPUs cannot be met", "raise the limit to 1 H100 GPU"],
    ),
    "an accelerator's limit, which counts what clouds list apart": (
        Problem(
            demands=(demand([[1.0]], option("H100-SXM", 1.0, [[1.0]], accelerator_count=2)),),
            constraints=Constraints(limits=at_most(("H100", 1))),
        ),
        SolveOptions(),
        ["the limit of 1 H100 GPU cannot be met", "raise the limit to 2 H100 GPUs"],
    ),
    "a cloud's limit": (
        two_places(constraints=Constraints(limits=at_most(("aws", 0), ("gcp", 9)))),
        SolveOptions(),
        ["the limit of 0 instances on aws cannot be met", "raise the limit to 1 instance on aws"],
    ),
    "two limits together": (
        two_places(constraints=Constraints(limits=at_most(("H100", 1), ("gcp/us-central1", 1)))),
        SolveOptions(),
        [
            "the limit of 1 H100 GPU and the limit of 1 instance on gcp/us-central1 cannot be met together",
            "raise the limit to 2 H100 GPUs",
            "raise the limit to 2 instances on gcp/us-central1",
        ],
    ),
    "an instance type's limit": (
        two_places(constraints=Constraints(limits=at_most(("h100-type", 0)))),
        SolveOptions(),
        ["the limit of 0 instances of h100-type", "raise the limit to 1"],
    ),
    "a budget": (
        two_places(constraints=Constraints(budget_usd_per_hour=15.0)),
        SolveOptions(),
        [
            "the budget of $15/h cannot be met at this rate",
            "raise the budget to $16.00/h",
        ],
    ),
    "a minimum against a limit": (
        two_places(
            constraints=Constraints(
                limits=at_most(("aws", 2)),
                minimum=(InstanceGroup(accelerator="H100", instances=3),),
            )
        ),
        SolveOptions(),
        [
            "the minimum of 3 x H100 and the limit of 2 instances on aws cannot be met together",
            "lower the minimum to 2",
            "raise the limit to 3 instances on aws",
        ],
    ),
    "replicas against limits": (
        two_places(constraints=Constraints(limits=at_most(("aws", 2), ("gcp", 1)), min_replicas=4)),
        SolveOptions(),
        [
            "at least 4 replicas",
            "lower min_replicas to 3",
            "raise the limit to 2 instances on gcp",
        ],
    ),
    "spare against a limit": (
        two_places(constraints=Constraints(limits=at_most(("H100", 1)), spare=1)),
        SolveOptions(),
        [
            "1 spare instance and the limit of 1 H100 GPU cannot be met together",
            "lower spare to 0",
            "to 2 H100",
        ],
    ),
    "a share per region with one region": (
        two_places(constraints=Constraints(max_share_per_region=0.2)),
        SolveOptions(),
        ["a share per region of at most 0.2", "raise the share per region to 0.5"],
    ),
    "a share per cloud": (
        two_places(constraints=Constraints(max_share_per_cloud=0.4)),
        SolveOptions(),
        ["a share per cloud of at most 0.4 cannot be met", "raise the share per cloud to 0.5"],
    ),
    "only spot where spot is bounded": (
        Problem(
            demands=(
                demand([[1.0]], placed("l4", 0.3, [[1.0]], "gcp/us-central1", use_spot=True)),
            ),
            constraints=Constraints(spot=SpotPolicy(max_fraction=0.3)),
        ),
        SolveOptions(),
        ["a share on spot of at most 0.3 cannot be met", "raise the share on spot to 1"],
    ),
    "protection against wrong capacities": (
        two_places(constraints=Constraints(limits=at_most(("H100", 2), ("A10G", 0)))),
        SolveOptions(robustness=Robustness(throughput_error=0.2)),
        ["the limit of 2 H100 GPUs", "the limit of 0 A10G GPUs", "raise the limit to 3 H100 GPUs"],
    ),
    "more option types than there are": (
        two_places(constraints=Constraints(min_option_types=3)),
        SolveOptions(),
        [
            "at least 3 option types cannot be met at this rate",
            "require only 2 option types",
        ],
    ),
    "one option type against a share per region": (
        two_places(constraints=Constraints(max_option_types=1, max_share_per_region=0.5)),
        SolveOptions(),
        [
            "a share per region of at most 0.5 and at most 1 option type cannot be met together",
            "raise the share per region to 1",
            "allow 2 option types",
        ],
    ),
    "two models under one limit": (
        Problem(
            demands=(
                demand([[3.0]], placed("h100", 10.0, [[2.0]], "aws/us-east-1", accelerator="H100")),
                demand(
                    [[1.0]],
                    placed("h100", 10.0, [[2.0]], "aws/us-east-1", accelerator="H100"),
                    name="code",
                ),
            ),
            constraints=Constraints(limits=at_most(("H100", 2))),
        ),
        SolveOptions(),
        ["the limit of 2 H100 GPUs cannot be met", "raise the limit to 3 H100 GPUs"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named_in_one_line(case: str) -> None:
    problem, options, expected = CASES[case]
    with pytest.raises(InfeasibleError) as caught:
        optimize(problem, options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    for part in expected:
        assert part in message, message


def test_what_the_message_proposes_works_and_less_does_not() -> None:
    limited = Constraints(limits=at_most(("H100", 1), ("gcp/us-central1", 1)))
    optimize(two_places(constraints=Constraints(limits=(*at_most(("H100", 2)), limited.limits[1]))))
    optimize(
        two_places(
            constraints=Constraints(limits=(limited.limits[0], *at_most(("gcp/us-central1", 2))))
        )
    )
    optimize(two_places(constraints=Constraints(budget_usd_per_hour=16.0)))
    with pytest.raises(InfeasibleError):
        optimize(two_places(constraints=Constraints(budget_usd_per_hour=15.99)))


@pytest.mark.parametrize("kind", ["fixed", "minimum"])
def test_a_group_that_matches_nothing_is_bad_input(kind: str) -> None:
    group = InstanceGroup(accelerator="T4", instances=2, cloud="aws")
    constraints = Constraints(**{kind: (group,)})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"{kind}: no candidate option is one of 2 x T4 on aws"):
        optimize(two_places(constraints=constraints))


@pytest.mark.parametrize(
    ("constraints", "instances"),
    [
        (Constraints(limits=at_most(("H100", 2))), {"H100-SXM": 2, "L4": 2}),
        (Constraints(limits=at_most(("H100-SXM", 2))), {"H100-SXM": 2, "H100": 2}),
        (Constraints(minimum=(InstanceGroup(accelerator="H100", instances=4),)), {"H100-SXM": 4}),
        (
            Constraints(
                minimum=(InstanceGroup(accelerator="H100-SXM", instances=1),),
                limits=at_most(("H100", 1)),
            ),
            {"H100-SXM": 1, "L4": 3},
        ),
    ],
)
def test_rules_for_an_accelerator_hold_for_what_clouds_list_apart(
    constraints: Constraints, instances: dict[str, int]
) -> None:
    options = [option(n, p, [[1.0]]) for n, p in (("H100-SXM", 1.0), ("H100", 2.0), ("L4", 3.0))]
    problem = Problem(demands=(demand([[4.0]], *options),), constraints=constraints)
    (allocations,) = optimize(problem).allocations
    assert {a.candidate.option.name: a.instances for a in allocations} == instances


def cheap_and_dear(rate_rps: float = 10.0, **rules: Any) -> Problem:
    """B is dearer than A and carries less, in the same place."""
    return Problem(
        demands=(demand([[rate_rps]], option("A", 1.0, [[6.0]]), option("B", 1.5, [[5.0]])),),
        constraints=Constraints(**rules),
    )


def test_a_second_option_type_is_found_though_the_first_beats_it() -> None:
    solution = optimize(cheap_and_dear(min_option_types=2))
    assert solution.cost_usd_per_hour == pytest.approx(2.5)
    counts = {a.candidate.option.name: a.instances for a in solution.allocations[0]}
    assert counts == {"A": 1, "B": 1}
    # Ten of eleven are used, spread evenly: none is there for the number alone.
    assert [a.load_fraction for a in solution.allocations[0]] == pytest.approx([10 / 11] * 2)


def test_a_second_option_type_gets_load_where_one_instance_would_do() -> None:
    (allocations,) = optimize(cheap_and_dear(rate_rps=2.0, min_option_types=2)).allocations
    assert [a.instances for a in allocations] == [1, 1]
    assert [a.rate_rps for a in allocations] == pytest.approx([2.0 * 6 / 11, 2.0 * 5 / 11])


def test_option_types_are_counted_for_each_model() -> None:
    first = cheap_and_dear().demands[0]
    both = Problem(
        demands=(first, demand([[4.0]], *first.options, name="code")),
        constraints=Constraints(min_option_types=2),
    )
    assert [len(mine) for mine in optimize(both).allocations] == [2, 2]
    one = replace(both, constraints=Constraints(max_option_types=1))
    assert [len(mine) for mine in optimize(one).allocations] == [1, 1]


def test_an_option_that_serves_none_of_the_requests_is_no_option_type() -> None:
    options = (option("A", 2.0, [[6.0, 6.0]]), option("idle", 0.1, [[None, 6.0]]))
    problem = Problem(
        demands=(demand([[1.0, 0.0]], *options),), constraints=Constraints(min_option_types=2)
    )
    with pytest.raises(InfeasibleError) as caught:
        optimize(problem)
    assert str(caught.value) == (
        "at least 2 option types cannot be met at this rate; to make it possible, require only 1 option type"
    )
