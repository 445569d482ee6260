"""The rate to plan at, so that the SLO holds over a whole trace: neither its mean nor its peak.

A fleet that is sized for a rate holds more than its target below it and less above. With the miss
curve m(ρ), the fraction of requests that miss their limits when the rate is ρ times the planned one,
the least sufficient rate r solves

    Σ over windows w of  requests_w × m(rate_w ÷ r)  ≤  (1 − target) × all requests.

The curve is simulated on a planned fleet with arrivals as bursty as the trace's own within its
windows, so that queues inside a window are in it; what one window leaves to the next is not, so the
trace is replayed through the fleet for that rate, and the rate raised until this holds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.errors import InfeasibleError
from melange_sky.planner.notes import rate_text
from melange_sky.planner.plan_spec import plan_loaded
from melange_sky.planner.replay_loop.replan import Replanner
from melange_sky.planner.replay_loop.replay import SimulationRequest, simulate_plan
from melange_sky.plans import PlanWarning
from melange_sky.replay import Replay
from melange_sky.spec import AcceleratorChoice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.replay import Verdict
    from melange_sky.spec import ServedModel, Spec
    from melange_sky.workload import Arrivals

    Floats = NDArray[np.float64]

log = logging.getLogger(__name__)

RATIOS = (0.4, 0.6, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 1.8, 2.2, 2.8, 3.6)
"""Rates, in planned ones, at which the miss curve is simulated."""

HOPELESS = 0.9
"""A miss fraction from which on no higher rate is simulated."""

CURVE_S, CURVE_REQUESTS = 300.0, 6_000
"""How long a point of the curve is simulated: the replay of the trace is what decides."""

FIRST_RAISE = 1.1
LARGEST_RAISE = 8.0
BISECTIONS = 40
BISECTIONS_BY_REPLAY = 4
MUCH_VARIATION, MANY_WINDOWS = 0.2, 288
"""Windows that differ more by chance, and fewer than a day's, do not tell how busy others will be."""

SEARCHED = 10.0
"""Rates from the mean ÷ 10 to the busiest window's × 10 are searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MissCurve:
    """m(ρ): `ratios` of the planned rate and the fraction that misses there, shapes (points,)."""

    ratios: Floats
    missed: Floats

    def at(self, ratios: Floats) -> Floats:
        """Return the fractions at `ratios`, of any shape; beyond the last point all miss."""
        shown: Floats = np.interp(ratios, self.ratios, self.missed)
        return np.where(ratios > self.ratios[-1], 1.0, shown)


def plan_over_time(
    spec: Spec, request: PlanRequest, seed: int = 0, *, proven: bool = True, jobs: int = 1
) -> Plan:
    """Plan a spec at rates that hold over its traces and bursts, where it does not give them itself.

    A long trace is judged by windows of it, and the fleet for the rate that these let hold is `proven`
    on the whole of it unless the caller replays it anyhow. `jobs` replays run side by side.

    Raises what `plan_loaded` raises; InfeasibleError too where no fleet holds over the trace.
    """
    if not spec.leaves_rate_open:
        return plan_loaded(spec, request)
    search = _Search(
        first=_bare_plan(spec, request), request=request, spec=spec, seed=seed, jobs=jobs
    )
    rates = [_least_rate(m, s, seed) for m, s in search.pairs]
    factor = _least_factor(search, rates, proven=proven)
    if factor is None and proven:
        return _with_one_accelerator(search, max(rates) * LARGEST_RAISE)
    priced = replace(request, prices=replace(request.prices, refresh=False))
    plan = plan_loaded(_at_rates(spec, _scaled(spec, rates, factor or 1.0)), priced)
    return _noted(plan, search.verdicts(plan.models, whole=proven))


def _least_factor(search: _Search, rates: Sequence[float], *, proven: bool) -> float | None:
    """Return the least factor on `rates` found at which a fleet holds, None where none does."""
    factor = _factor_by_windows(search, rates)
    while factor is not None and proven and search.is_long:
        if search.holds(_scaled(search.spec, rates, factor), whole=True):
            break
        factor = None if factor > LARGEST_RAISE else factor * FIRST_RAISE
    return factor


def _with_one_accelerator(search: _Search, rate_rps: float) -> Plan:
    """Plan with one accelerator where the mixes that the optimizer chooses hold at no rate: the
    cheapest of those that do alone.

    Raises InfeasibleError where none does.
    """
    spec, first = search.spec, search.first
    names = {c.option.accelerator for m in first.models for c in m.candidates}
    plans = []
    for name in sorted(names) if len(names) > 1 else ():
        chosen = tuple(c for c in spec.resources.accelerators if c.name == name)
        kept = replace(spec.resources, accelerators=chosen or (AcceleratorChoice(name=name),))
        try:
            alone = replace(spec, resources=kept)
            plans.append(plan_over_time(alone, search.request, search.seed, jobs=search.jobs))
        except InfeasibleError:
            continue
    if not plans:
        raise InfeasibleError(_too_bursty(spec, rate_rps))
    best = min(plans, key=lambda p: p.cost_usd_per_hour)
    note = PlanWarning(
        code="rate",
        message="no mix of accelerators that the estimates ask for holds over this traffic; this is the "
        "cheapest of one accelerator alone that does (plan --verify searches further)",
    )
    return replace(best, warnings=(note, *best.warnings))


def _factor_by_windows(search: _Search, rates: Sequence[float]) -> float | None:
    """Return the least factor on `rates` found at which a fleet holds, by replays that need only tell
    on which side of the target it is; None where none does.
    """
    spec = search.spec
    low: float | None = None
    high = 1.0
    while not search.holds(_scaled(spec, rates, high)):
        if high > LARGEST_RAISE:
            return None
        low, high = high, high * (FIRST_RAISE if low is None else (high / low) ** 2)
    for _ in range(BISECTIONS_BY_REPLAY):
        if low is None:
            break
        middle = (low * high) ** 0.5
        low, high = (low, middle) if search.holds(_scaled(spec, rates, middle)) else (middle, high)
    return high


def _bare_plan(spec: Spec, request: PlanRequest) -> Plan:
    """Plan for the mean rate without headroom, spare replicas or protection against errors.

    The rate that holds is one of the traffic. What is asked for besides comes on top of it: a replay of
    the whole fleet would take it for room to save.
    """
    means = [s.workload.rate_rps if (a := _open(s)) is None else a.mean_rps for s in spec.models]
    bare = replace(spec, headroom=0.0, redundancy=replace(spec.redundancy, spare=0))
    return plan_loaded(_at_rates(bare, means), replace(_unprotected(request), sensitivity=False))


def _unprotected(request: PlanRequest) -> PlanRequest:
    return replace(request, solve=replace(request.solve, robustness=None))


@dataclass(slots=True, kw_only=True)
class _Search:
    """Chooses fleets among the first plan's candidates and replays each once."""

    first: Plan
    request: PlanRequest
    spec: Spec
    seed: int
    jobs: int = 1
    judged: dict[object, Verdict | None] = field(default_factory=dict)

    @property
    def pairs(self) -> zip[tuple[ModelPlan, ServedModel]]:
        """The first plan's models, each with what the spec says of it."""
        return zip(self.first.models, self.spec.models, strict=True)

    @property
    def is_long(self) -> bool:
        """Whether any trace is judged by windows."""
        opened = [_open(served) for served in self.spec.models]
        return any(SimulationRequest(trace=a.trace).is_long for a in opened if a is not None)

    def holds(self, rates_rps: Sequence[float], *, whole: bool = False) -> bool:
        """Return whether every model's target holds in replay of the fleet for these rates."""
        models = tuple(
            replace(model, workload=model.workload.at_rate(rate))
            for model, rate in zip(self.first.models, rates_rps, strict=True)
        )
        replanner = Replanner(
            first=replace(self.first, models=models), request=_unprotected(self.request)
        )
        plan = replanner.plan([{} for _ in models])
        verdicts = self.verdicts(plan.models, whole=whole)
        held = all(v is None or v.interval[0] >= v.target for v in verdicts)
        told = ", ".join(f"{rate:.4g}" for rate in rates_rps)
        log.info("planned at %s req/s: %s", told, "holds" if held else "missed")
        return held

    def verdicts(self, models: Sequence[ModelPlan], *, whole: bool) -> list[Verdict | None]:
        """Replay fleets, each once, over what their models' rates were found for."""
        return [
            self._verdict(k, model, served, whole)
            for k, (model, served) in enumerate(zip(models, self.spec.models, strict=True))
        ]

    def _verdict(
        self, k: int, model: ModelPlan, served: ServedModel, whole: bool
    ) -> Verdict | None:
        fleet = tuple((a.candidate.option.name, a.instances, a.shares) for a in model.allocations)
        key = k, whole, fleet
        if key not in self.judged:
            self.judged[key] = _verdict(model, served, self.seed, whole=whole, jobs=self.jobs)
        return self.judged[key]


def _scaled(spec: Spec, rates_rps: Sequence[float], factor: float) -> list[float]:
    """Return these rates, those that planning is to find times `factor`."""
    pairs = zip(spec.models, rates_rps, strict=True)
    return [rate if _open(served) is None else rate * factor for served, rate in pairs]


def _at_rates(spec: Spec, rates_rps: Sequence[float]) -> Spec:
    models = tuple(
        replace(served, workload=served.workload.at_rate(rate))
        for served, rate in zip(spec.models, rates_rps, strict=True)
    )
    return replace(spec, models=models)


def _too_bursty(spec: Spec, rate_rps: float) -> str:
    return (
        f"{spec.path}: no fleet holds the SLO over this traffic, up to one planned for {rate_rps:.3g} "
        "req/s; its bursts are too short to absorb within these limits: loosen slo, or choose the rate "
        "yourself (workload.rate)"
    )


def _open(served: ServedModel) -> Arrivals | None:
    """Return the arrivals over which a rate must hold, None where the rate is given."""
    arrivals = served.workload.arrivals
    return arrivals if arrivals is not None and arrivals.is_open else None


def _noted(plan: Plan, verdicts: list[Verdict | None]) -> Plan:
    """Return the plan with what its replay showed, by model."""
    models, shared = [], list(plan.warnings)
    for model, verdict in zip(plan.models, verdicts, strict=True):
        if verdict is None or model.rate_profile is None:
            models.append(model)
            continue
        note = PlanWarning(
            code="rate",
            message=f"{rate_text(model.rate_profile)}: the least rate found at which "
            f"{verdict.attainment:.2%} of {verdict.judged:,} replayed requests meet the SLO "
            f"(target {verdict.target:.0%})",
        )
        notes = (note, *_doubt_of_few_windows(model.workload.arrivals))
        if plan.lists_models:
            models.append(replace(model, warnings=(*notes, *model.warnings)))
        else:
            models.append(model)
            shared[:0] = notes
    return replace(plan, models=tuple(models), warnings=tuple(shared))


def _doubt_of_few_windows(arrivals: Arrivals | None) -> tuple[PlanWarning, ...]:
    """Say what a trace cannot promise of windows busier than its own; see `replay.stretch`."""
    profile = None if arrivals is None else arrivals.profile
    if profile is None or len(profile.counts) >= MANY_WINDOWS:
        return ()
    variation = profile.chance_variation
    if variation < MUCH_VARIATION:
        return ()
    message = (
        f"the {len(profile.counts)} five-minute windows of the trace differ by {variation:.0%} by chance, so that "
        "another such stretch may be busier than any of them: of fleets that just hold over such a trace, one in "
        "four to ten misses over the next; a trace of a day and more, or more headroom, makes it surer"
    )
    return (PlanWarning(code="rate", message=message),)


def _least_rate(model: ModelPlan, served: ServedModel, seed: int) -> float:
    """Return the least rate that the miss curve of the model's fleet lets hold over its traffic."""
    arrivals = _open(served)
    if arrivals is None:
        return served.workload.rate_rps
    rates, requests = _windows(arrivals)
    curve = miss_curve(model, burstiness_of(arrivals), seed)
    allowed = (1 - served.slo.attainment) * float(requests.sum())

    def holds(rate_rps: float) -> bool:
        return float((requests * curve.at(rates / rate_rps)).sum()) <= allowed

    low, high = arrivals.mean_rps / SEARCHED, float(rates.max()) * SEARCHED
    if not holds(high):
        return float(rates.max())
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _windows(arrivals: Arrivals) -> tuple[Floats, Floats]:
    """Return each window's rate and requests; traffic without a trace is one window."""
    profile = arrivals.profile
    if profile is None:
        return np.array([arrivals.mean_rps]), np.array([1.0])
    return np.array(profile.rates_rps), np.array(profile.counts, dtype=np.float64)


def burstiness_of(arrivals: Arrivals) -> float:
    """Return the squared variation of gaps to simulate with: of a trace, that within its windows."""
    profile = arrivals.profile
    return arrivals.burstiness if profile is None else profile.burst_dispersion


def miss_curve(model: ModelPlan, burstiness: float, seed: int) -> MissCurve:
    """Simulate the fleet of a model at rates around its planned one; the curve never falls."""
    missed: list[float] = []
    for ratio in RATIOS:
        rate_rps = model.workload.rate_rps * ratio
        request = SimulationRequest(
            rate_scale=ratio,
            burstiness=burstiness,
            duration_s=max(CURVE_S, CURVE_REQUESTS / rate_rps),
            how=Replay(seed=seed),
        )
        missed.append(1.0 - simulate_plan(model, request).verdict.attainment)
        if missed[-1] > HOPELESS:
            break
    ratios = np.array([0.0, *RATIOS[: len(missed)]])
    return MissCurve(ratios=ratios, missed=np.maximum.accumulate([missed[0], *missed]))


def _verdict(
    model: ModelPlan, served: ServedModel, seed: int, *, whole: bool, jobs: int
) -> Verdict | None:
    """Replay what a model's rate was found for; None where the rate was given."""
    arrivals = _open(served)
    if arrivals is None:
        return None
    request = SimulationRequest(
        trace=arrivals.trace, how=Replay(seed=seed), until_sure=not whole, jobs=jobs
    )
    if arrivals.trace is None:
        scale = arrivals.mean_rps / model.workload.rate_rps
        request = replace(
            request, rate_scale=scale, burstiness=arrivals.burstiness, until_sure=True
        )
    return simulate_plan(model, request).verdict
