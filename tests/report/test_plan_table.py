"""The table tells what is proven, what is not, and where each number is from."""

from __future__ import annotations

from dataclasses import replace

from melange_sky.plans import Baseline, PlanWarning, Sensitivity, SolverReport
from melange_sky.report.plan_table import plan_table
from tests.factories import make_engine, make_model_plan, make_plan


def _baseline(cost: float | None, saving: float | None, reason: str | None = None) -> Baseline:
    return Baseline(
        accelerator="H100",
        feasible=cost is not None,
        reason=reason,
        instances=2,
        cost_usd_per_hour=cost,
        saving_fraction=saving,
    )


def test_an_unproven_plan_says_so_with_its_gap() -> None:
    late = SolverReport(status="feasible", mip_gap=0.17, solve_seconds=30.0, solver="highs")
    text = plan_table(make_plan(solver=late), width=200)
    assert "feasible, NOT proven optimal: gap 17.00% after 30.00 s" in text


def test_the_saving_is_as_honest_as_the_baseline() -> None:
    def told(*rows: Baseline) -> str:
        return plan_table(make_plan(baselines=rows), width=200)

    assert "the mix saves 20.0% by estimate; plan --verify sizes both by replay." in told(
        _baseline(10.0, 0.2)
    )
    assert "the mix saves at most 20.0% by estimate; plan --verify sizes both by replay." in told(
        _baseline(10.0, 0.2, "not proven")
    )
    assert "H100 alone costs the same" in told(_baseline(10.0, 0.0))
    assert "H100 alone costs less than this plan" in told(_baseline(10.0, -0.25))
    assert "No single accelerator can serve this alone." in told(_baseline(None, None, "TTFT"))


def test_a_baseline_without_an_answer_leaves_the_saving_open() -> None:
    late = replace(_baseline(None, None, "unknown: no answer"), feasible=None, instances=None)
    text = plan_table(make_plan(baselines=(late,)), width=200)
    assert (
        "Whether a single accelerator can serve this alone is unknown: raise --time-limit." in text
    )
    assert "unknown: no answer" in text
    text = plan_table(make_plan(baselines=(late, _baseline(10.0, 0.2))), width=200)
    assert "the mix saves at most 20.0% by estimate; plan --verify sizes both by replay." in text


def test_warnings_of_one_of_several_models_bear_its_name() -> None:
    chat, code = (
        make_model_plan(name=name, warnings=(PlanWarning(code="workload", message=f"odd {name}"),))
        for name in ("chat", "code")
    )
    shared = (PlanWarning(code="prices", message="old"),)
    text = plan_table(make_plan(models=(chat, code), lists_models=True, warnings=shared), width=200)
    assert text.splitlines()[-3:] == [
        "warning [prices]: old",
        "warning [workload]: chat: odd chat",
        "warning [workload]: code: odd code",
    ]
    text = plan_table(make_plan(models=(chat,), warnings=shared), width=200)
    assert text.splitlines()[-2:] == ["warning [prices]: old", "warning [workload]: odd chat"]


def test_every_price_and_capacity_has_its_origin() -> None:
    text = plan_table(make_plan(), width=200)
    assert "[1] price from embedded, as of 2026-09-01" in text
    assert "estimated" in text


def test_what_is_paid_for_already_is_named_with_its_worth() -> None:
    allocation = make_model_plan().allocations[0]
    paid = replace(allocation, instances=3, fixed_instances=2)
    text = plan_table(make_plan(allocations=(paid,)), width=200)
    each = allocation.candidate.option.price_usd_per_hour
    assert f"Total ${each:,.3f}/h" in text
    assert (
        f"Already paid for (resources.fixed): 2 × A10G:1; at these prices the whole fleet costs ${3 * each:,.3f}/h\n"
    ) in text
    assert "paid for already" not in plan_table(make_plan(), width=200)


def test_what_is_expected_to_miss_is_told_by_size() -> None:
    """Of 3.5 req/s, 2 are of the first size; half of them are served late, all of these miss."""
    first, second = make_model_plan().allocations
    half = ((0.5, 0.0), (0.0, 0.0))
    late = replace(first, late=((0.0, half),))
    text = plan_table(make_plan(allocations=(late, second)), width=200)
    assert "served all the same: 28.57% of the requests (about 3,600 an hour)\n" in text
    assert "  input 0-100, output 0-50: 28.571%, 50% of this size\n" in text
    assert "Expected to miss" not in plan_table(make_plan(), width=200)


def test_splits_of_one_instance_can_be_told_apart() -> None:
    allocation = make_model_plan().allocations[0]
    option = replace(
        allocation.candidate.option,
        accelerator_count=8,
        engine=make_engine(tensor_parallel=2, data_parallel=4),
    )
    split = replace(
        allocation, rate_rps=1570.4, candidate=replace(allocation.candidate, option=option)
    )
    text = plan_table(make_plan(allocations=(split,)), width=200)
    assert "A10G:8 tp2" in text and " 1,570 " in text


def test_markup_in_untrusted_text_is_shown_as_it_is() -> None:
    text = plan_table(make_plan(model="[red]x[/red]"), width=200)
    assert "[red]x[/red]" in text


def test_listed_models_have_a_total_each_and_the_cost_band_once() -> None:
    band = Sensitivity(low_usd_per_hour=10.0, high_usd_per_hour=14.5)
    models = (make_model_plan(name="a"), make_model_plan(name="b"))
    text = plan_table(
        make_plan(name="both", models=models, lists_models=True, sensitivity=band), width=200
    )
    lines = [line for line in text.splitlines() if line.startswith(("Total", "Together", "If"))]
    assert all(line.startswith("Total $6.076/h") for line in lines[:2])
    assert lines[2:] == [
        "Together $12.15/h (optimal, gap 0.00%, solved in 0.01 s)",
        "If the estimated capacities are off by their error band: $10.00/h to $14.50/h",
    ]
    alone = plan_table(make_plan(models=models[:1], sensitivity=band), width=200)
    assert "Together" not in alone
    assert alone.count("error band") == 1
