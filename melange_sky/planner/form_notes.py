"""What the choice of checkpoint and quantization gained."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.errors import InfeasibleError, NoPlanInTimeError
from melange_sky.optimizer import Termination, least_cost, optimize
from melange_sky.plans import FormGain, PlanWarning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.optimizer import Demand, Solution, SolveOptions
    from melange_sky.planner.prepare import PreparedProblem
    from melange_sky.plans import ModelForm

CODE = "quantization"
SAME_USD = 1e-6


def preferring_first_forms(
    prepared: PreparedProblem, solution: Solution, solve: SolveOptions
) -> Solution:
    """Return a fleet of the same cost where models keep their first form unless another one saves.

    Model by model: another form that saves nothing has only its quality to lose.
    """
    problem, demands = prepared.problem, list(prepared.problem.demands)
    for k, forms in enumerate(prepared.forms):
        if all(a.candidate.option.form == _first(forms) for a in solution.allocations[k]):
            continue
        narrowed = [*demands[:k], _first_form(demands[k], forms), *demands[k + 1 :]]
        try:
            other = optimize(replace(problem, demands=tuple(narrowed)), solve)
        except (InfeasibleError, NoPlanInTimeError):
            continue
        if other.cost_usd_per_hour <= solution.cost_usd_per_hour + SAME_USD:
            solution, demands = replace(other, report=solution.report), narrowed
    return solution


def form_gain(
    prepared: PreparedProblem, solution: Solution, solve: SolveOptions
) -> FormGain | None:
    """Return what the choice of forms gained; None where no model has one or time is out."""
    if all(len(forms) < 2 for forms in prepared.forms):
        return None
    demands = tuple(map(_first_form, prepared.problem.demands, prepared.forms))
    alone = least_cost(replace(prepared.problem, demands=demands), cost_alone(solve))
    if alone.termination is Termination.LIMIT:
        return None
    return FormGain(
        cost_usd_per_hour=solution.cost_usd_per_hour, without_usd_per_hour=alone.cost_usd_per_hour
    )


def _first(forms: tuple[ModelForm, ...]) -> str | None:
    return forms[0].name or None


def _first_form(demand: Demand, forms: tuple[ModelForm, ...]) -> Demand:
    kept = tuple(c for c in demand.options if c.option.form == _first(forms))
    return replace(demand, options=kept)


def gain_notes(
    prepared: PreparedProblem, solution: Solution, gain: FormGain | None
) -> tuple[PlanWarning, ...]:
    """Say which forms the plan uses and what they save."""
    if gain is None:
        return ()
    used = _forms_in_use(prepared, solution)
    first = " and ".join(dict.fromkeys(_named(forms[0]) for forms in prepared.forms))
    if not used:
        text = f"no other form pays here: all of the fleet holds {first}"
    elif gain.without_usd_per_hour is None:
        text = f"{used}: with {first} alone no fleet serves this"
    else:
        saved = gain.without_usd_per_hour - gain.cost_usd_per_hour
        text = f"{used}: ${saved:,.2f}/h less than with {first} alone (${gain.without_usd_per_hour:,.2f}/h)"
    if used:
        text += "; check that its answers are good enough before you rent"
    return (PlanWarning(code=CODE, message=text),)


def _forms_in_use(prepared: PreparedProblem, solution: Solution) -> str:
    """Return such as ``fp8 on L40S and H100``, empty where the first form alone is used."""
    places: dict[str, dict[str, None]] = {}
    for forms, chosen in zip(prepared.forms, solution.allocations, strict=True):
        for allocation in chosen:
            option = allocation.candidate.option
            if option.form is not None and option.form != _first(forms):
                places.setdefault(option.form, {})[option.accelerator] = None
    return ", ".join(f"{form} on {listed(list(names))}" for form, names in places.items())


def listed(names: Sequence[str]) -> str:
    """Return names as one says them.

    >>> listed(["H100", "L4", "L40S"])
    'H100, L4 and L40S'
    """
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _named(form: ModelForm) -> str:
    return f"{form.checkpoint} as {form.name or form.shape.dtype}"


def cost_alone(solve: SolveOptions) -> SolveOptions:
    """Return how to look for a cost alone, without what is asked of the plan itself."""
    return replace(solve, within_fraction=0.0, alternatives=0, stay_close=None)
