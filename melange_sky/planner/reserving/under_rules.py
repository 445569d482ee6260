"""The rules of a spec in every hour: which of them reserve keeps, and the fleets that do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.commitments import Owned
from melange_sky.errors import InfeasibleError, InputError
from melange_sky.optimizer import SolveOptions, optimize
from melange_sky.optimizer.rules.attainment import Attainment
from melange_sky.optimizer.rules.groups import matches_offer
from melange_sky.optimizer.rules.registry import RuleSet
from melange_sky.optimizer.rules.serving import Load, Serve
from melange_sky.planner.constraints import constraints_of
from melange_sky.reserve.build import served_by
from melange_sky.reserve.ruled import ruled_by
from melange_sky.reserve.tariff import Tariff
from melange_sky.reserve.tied import models_of
from melange_sky.reserve.together import Together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from melange_sky.optimizer import Deadline
    from melange_sky.planner.options import PlannedOffer
    from melange_sky.planner.reserving.material import Mix
    from melange_sky.reserve.serving import Served
    from melange_sky.spec import Spec

    Floats = NDArray[np.float64]

IDLE_NOTE = (
    "hours without traffic rent nothing, whatever min_replicas, minimum and spare ask of a fleet"
)


def check_spec(spec: Spec) -> None:
    """Raise InputError for what a reservation cannot be reckoned for."""
    problems = []
    if constraints_of(spec).budget_usd_per_hour is not None:
        problems.append(
            "resources.budget_usd_per_hour: what is committed is paid by the year, not by the hour; leave it out, and "
            "bound what is paid at once with --budget-upfront"
        )
    if problems:
        raise InputError(*(f"{spec.path}: {problem}" for problem in problems))


def check_mixes(spec: Spec, labels: Sequence[str]) -> None:
    """Raise InputError where mixes of sizes are named for several models."""
    if len(spec.models) > 1 and any(labels):
        raise InputError(
            f"{spec.path}: models: mixes of sizes are of one model; leave the demand's column `mix` out, and each of "
            "several models has the sizes of the spec"
        )


def is_ruled(mix: Mix) -> bool:
    """Return whether fleets of a mix keep to more than that every request is served."""
    rules = RuleSet.of(mix.problem, SolveOptions()).rules
    plain = all(isinstance(rule, Serve | Load | Attainment) for rule in rules)
    return not plain or len(mix.problem.demands) > 1


def idle_notes(mixes: Sequence[Mix], peaks_rps: Floats) -> tuple[str, ...]:
    """Return what is to be told of hours without traffic where a rule asks for instances; peaks by period."""
    rules = [RuleSet.of(mix.problem, SolveOptions()) for mix in mixes]
    asked = any(one.counts_instances for one in rules)
    return (IDLE_NOTE,) if asked and bool((peaks_rps <= 0).any()) else ()


def served_mixes(mixes: Sequence[Mix], names: Sequence[str], deadline: Deadline) -> list[Served]:
    """Return the fleets that serve each mix, under the rules where there are any; `names` are the options in order.

    Raises InfeasibleError where a size is served by no option, TimeUpError.
    """
    place = {name: k for k, name in enumerate(names)}
    found: list[Served] = []
    for mix in mixes:
        if len(mix.problem.demands) > 1:
            places = {key: place[name] for name, key in mix.keys.items()}
            models = models_of(mix.problem, places, len(names), deadline)
            found.append(Together(models, mix.parts, deadline))
        elif is_ruled(mix):
            places = {key: place[name] for name, key in mix.keys.items()}
            found.append(ruled_by(mix.problem, places, len(names), deadline))
        else:
            found.append(served_by(mix.problem, names, deadline))
    return found


def require_fleets(
    mixes: Sequence[Mix],
    served: Sequence[Served],
    rents: Floats,
    peaks_rps: Sequence[float],
    deadline: Deadline,
) -> None:
    """Raise InfeasibleError, with the rules that clash, where no fleet keeps them at a mix's highest rate.

    `rents` is (price rows × options). Raises TimeUpError.
    """
    tariff = Tariff(free=np.zeros(rents.shape[1]), full=rents[0])
    for mix, fleets, peak in zip(mixes, served, peaks_rps, strict=True):
        if not is_ruled(mix) or peak <= 0 or fleets.cheapest(tariff, peak) is not None:
            continue
        of_mix = f" of mix '{mix.label}'" if mix.label else ""
        at_peak = f"at the demand's highest rate{of_mix}, {peak:g} req/s"
        try:
            optimize(mix.problem, SolveOptions(deadline=deadline))
        except InfeasibleError as error:
            raise InfeasibleError(f"{at_peak}: {error}", causes=error.causes) from None
        raise InfeasibleError(f"{at_peak}: no fleet keeps to the rules")


def fixed_units(spec: Spec, offers: Sequence[PlannedOffer]) -> Iterator[Owned]:
    """Yield what the spec's `resources.fixed` names, as owned instances: of the cheapest type that is one of them.

    What serves is the accelerators, which all of them have. Raises InputError where an instance could have
    different numbers of them, or no offer is one of the group.
    """
    for group in spec.resources.fixed:
        where = f"{spec.path}: resources.fixed: {group.label()}"
        able = [p for p in offers if not p.use_spot and matches_offer(p.offer, group)]
        if not able:
            raise InputError(
                f"{where}: no on-demand offer of the spec is one of them; check accelerators and infra"
            )
        counts = sorted({p.offer.accelerator_count for p in able})
        if len(counts) > 1:
            such = f"{group.accelerator}:{counts[0]:g}"
            raise InputError(f"{where}: say how many an instance has, such as {such}")
        best = min(able, key=lambda p: (p.price_usd_per_hour, p.offer.cloud, p.offer.instance_type))
        yield Owned(
            cloud=best.offer.cloud,
            region=group.region or "",
            instance_type=best.offer.instance_type,
            count=group.instances,
            where=where,
        )
