"""The order of the steps: what `reserve` and `bound` do, and how their answer is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from melange_sky.errors import MelangeError, NoPlanInTimeError
from melange_sky.optimizer import NEVER, TimeUpError
from melange_sky.planner.constraints import needs_every_region
from melange_sky.planner.found_offers import find_offers
from melange_sky.planner.hooks import NO_HOOKS, Hooks
from melange_sky.planner.prices import refresh_prices, refresh_warnings
from melange_sky.planner.reservations import reserved_offers
from melange_sky.planner.reserving.ages import price_lines, require_fresh, used_lines
from melange_sky.planner.reserving.answer import Reservation
from melange_sky.planner.reserving.api_price import compared_with_api
from melange_sky.planner.reserving.asking import Asked, mixes_of, question_of
from melange_sky.planner.reserving.document import RESERVE_FILE, bound_document, reserve_files
from melange_sky.planner.reserving.fleets import fleets_of
from melange_sky.planner.reserving.hourly_models import check_models
from melange_sky.planner.reserving.material import Given
from melange_sky.planner.reserving.proving import MOST_FLEETS, prove
from melange_sky.planner.reserving.relaxing import relaxed
from melange_sky.planner.reserving.terms import PlaceWishes, asked_terms, held_units, placed
from melange_sky.planner.reserving.under_rules import check_mixes, check_spec, fixed_units
from melange_sky.pricing.commitments.load import CommitmentQuery, load_commitments
from melange_sky.pricing.commitments.owned import read_owned
from melange_sky.pricing.freshness import term_source
from melange_sky.rendering import write_folder
from melange_sky.reserve.advise import advise
from melange_sky.spec import load_own_spec

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.optimizer import Deadline
    from melange_sky.planner.request import PlanRequest
    from melange_sky.planner.reserving.ages import PriceLine
    from melange_sky.planner.reserving.wishes import ReserveOptions
    from melange_sky.reserve.answer import Advice
    from melange_sky.spec import Spec, SpecSource

log = logging.getLogger(__name__)

EMBEDDED = "embedded-terms"
"""Said of list terms that ship, which one's own stand in place of."""

NO_ENGINE = (
    "reserve takes a melange_sky spec: a Mélange config holds no offers that could be committed to"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bound:
    """What a perfect autoscaler costs: `autoscaler_usd` on demand alone, `bound_usd` with the terms weighed."""

    asked: Asked
    lines: tuple[PriceLine, ...]
    used: tuple[PriceLine, ...]
    autoscaler_usd: float
    bound_usd: float

    @property
    def document(self) -> dict[str, Any]:
        """What `bound --format json` prints."""
        return bound_document(
            self.asked, (self.bound_usd, self.autoscaler_usd), self.lines, self.used
        )


def reserve_source(
    source: SpecSource, options: ReserveOptions, hooks: Hooks = NO_HOOKS
) -> Reservation:
    """Advise on what to commit to and what to rent for a spec and a demand over time.

    Fleets that miss their SLO in replay are in the answer all the same: its `missed` says which.
    Raises InputError, InfeasibleError, SourceUnavailableError for stale prices, NoPlanInTimeError.
    """
    request = options.request(hooks)
    try:
        asked, lines, deadline = _asked(source, options, request, hooks)
        advice = bounded(advise(asked.question, deadline=deadline, progress=hooks.searching))
        api = compared_with_api(asked, advice, deadline.at_least(5.0))
    except TimeUpError:
        raise NoPlanInTimeError(options.time_limit_s) from None
    if not options.stale_ok:
        require_fresh(used_lines(asked, advice, lines), offline=request.prices.forbids_network)
    asked = relaxed(asked, advice, asked.offers)
    fleets = fleets_of(asked, advice, request)
    found = Reservation(asked=asked, advice=advice, fleets=fleets, lines=lines, api=api)
    wanted = len(fleets) <= MOST_FLEETS if options.verify is None else options.verify
    if not wanted:
        return found
    proof = prove(asked, fleets, hooks.proving)
    return replace(found, fleets=proof.fleets, proof=proof)


def bounded(advice: Advice) -> Advice:
    """Return advice with the better of two bounds: what the search proved, and the perfect autoscaler's cost."""
    if len(advice.scenarios) > 1 or advice.objective_usd <= 0:
        return advice
    autoscaler = advice.totals.bound_usd
    if autoscaler is None:
        return advice
    bound = max(advice.bound_objective_usd, min(autoscaler, advice.objective_usd))
    gap = min(advice.gap, 1 - bound / advice.objective_usd)
    return replace(advice, bound_objective_usd=bound, gap=gap)


def bound_source(source: SpecSource, options: ReserveOptions, hooks: Hooks = NO_HOOKS) -> Bound:
    """Return what a perfect autoscaler costs over a demand; raises what `reserve_source` does."""
    request = options.request(hooks)
    try:
        asked, lines, deadline = _asked(source, options, request, hooks)
        whole = advise(asked.question, deadline=deadline, progress=hooks.searching)
    except TimeUpError:
        raise NoPlanInTimeError(options.time_limit_s) from None
    if whole.totals.bound_usd is None:
        raise NoPlanInTimeError(options.time_limit_s)
    used = used_lines(asked, whole, lines)
    if not options.stale_ok:
        require_fresh(used, offline=request.prices.forbids_network)
    return Bound(
        asked=asked,
        lines=lines,
        used=used,
        autoscaler_usd=whole.totals.all_on_demand_usd,
        bound_usd=whole.totals.bound_usd,
    )


def write_reservation(found: Reservation, folder: Path, *, force: bool = False) -> tuple[str, ...]:
    """Write reserve.json and the plans as one folder, all or nothing; return the files' names.

    Raises InputError where the folder holds foreign or edited files and `force` is False.
    """
    files = reserve_files(found)
    write_folder(folder, files, force=force)
    log.info("wrote %d files to %s", len(files), folder)
    return (RESERVE_FILE, *sorted(set(files) - {RESERVE_FILE}))


def _asked(
    source: SpecSource, options: ReserveOptions, request: PlanRequest, hooks: Hooks
) -> tuple[Asked, tuple[PriceLine, ...], Deadline]:
    """Read everything and put the question; the time for solving runs once capacities are known."""
    spec = load_own_spec(source, NO_ENGINE)
    check_spec(spec)
    demand, sizes = options.source.read(options.weeks)
    check_mixes(spec, demand.labels)
    check_models(spec, demand)
    changes = options.changes
    told = _refreshed(spec, request, hooks)
    found = find_offers(spec, request)
    owned = () if options.owned is None else read_owned(options.owned, found.book.own_clouds)
    free, about_free = reserved_offers(found.offers, spec.resources.fixed, request)
    owned = (*owned, *fixed_units(spec, found.offers), *(held_units(nodes) for nodes in free))
    request = replace(request, reserved=())
    query = CommitmentQuery(
        infra=tuple((p.cloud, p.region) for p in spec.resources.infra),
        only_offered=True,
        own=options.commitments,
    )
    book = load_commitments(query, found.book.offers)
    rows = tuple(quote.commitment for quote in book.usable)
    if options.commitments is not None:
        rows = tuple(row for row in rows if row.is_own)
    apart = PlaceWishes(discount_rate=options.discount_rate, every_region=needs_every_region(spec))
    places = placed(found.offers, asked_terms(rows, options), owned, apart)
    given = Given(
        spec=spec,
        demand=demand,
        sizes=sizes,
        changes=changes,
        found=replace(found, offers=places.offers),
        offers=found.offers,
        terms=places.terms,
        owned=owned,
        notes=(
            *told,
            *(
                w.message
                for w in (*about_free, *book.warnings)
                if not (options.commitments and w.code == EMBEDDED)
            ),
        ),
    )
    mixes = mixes_of(given, request)
    deadline = NEVER.within(options.time_limit_s)
    asked = question_of(given, mixes, options, deadline)
    lines = price_lines(asked, found.book.checked_at)
    if not options.stale_ok and all(line.age.is_stale for line in lines):
        require_fresh(lines, offline=request.prices.forbids_network)  # whatever the answer is
    return asked, lines, deadline


def _refreshed(spec: Spec, request: PlanRequest, hooks: Hooks) -> tuple[str, ...]:
    """Pull prices of the spec's clouds where the network is allowed; return what is to be told of it."""
    if request.prices.forbids_network:
        return ()
    clouds = tuple(dict.fromkeys(place.cloud for place in spec.resources.infra))
    sources = tuple(found for cloud in clouds if (found := term_source(cloud)))
    try:
        result = refresh_prices(infra=",".join(clouds), sources=sources, display=hooks.refreshing)
    except MelangeError as error:
        return (str(error),)
    return refresh_warnings(result)
