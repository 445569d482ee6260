"""List, refresh and compare instance prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.planner import prices as work
from melange_sky.planner.reprice import PlanDifference
from melange_sky.planner.reprice import diff_plan as reprice_plan
from melange_sky.pricing.commitments.load import CommitmentBook
from melange_sky.pricing.cross_check import PriceCheck
from melange_sky.pricing.diff import Difference
from melange_sky.pricing.query import OfferBook
from melange_sky.pricing.refresh import RefreshResult
from melange_sky.pricing.store import Manifest
from melange_sky.report import offers as show_offers
from melange_sky.report import price_changes as show_changes
from melange_sky.report import terms as show_terms
from melange_sky.report.page import rows_html
from melange_sky.report.repricing import repricing_note, repricing_text
from melange_sky.sdk.arguments import path_of, plan_of, source_of
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.sdk.arguments import AnyPath, AnyPlan, AnySpec


class Prices(Shown, OfferBook):
    """The `offers`, the `snapshot` that they come from and `warnings`; printed as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return show_offers.offers_table(self.offers) + show_offers.offers_note(self.offers)

    def _repr_html_(self) -> str:
        return rows_html(show_offers.offers_rows(self.offers), right=show_offers.RIGHT)


class PriceTerms(Shown, CommitmentBook):
    """The terms as `quotes`, each beside its on-demand price, and `warnings`; printed as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        return show_terms.terms_table(self.quotes) + show_terms.terms_note(self.quotes)

    def _repr_html_(self) -> str:
        return rows_html(show_terms.terms_rows(self.quotes), right=show_terms.RIGHT)


class Refreshed(Shown, RefreshResult):
    """What a refresh brought; printed as a line per cloud, failures first."""

    __slots__ = ()

    def __str__(self) -> str:
        warnings = "".join(f"{line}\n" for line in work.refresh_warnings(self))
        return warnings + show_changes.refresh_text(self)


class Checked(Shown, PriceCheck):
    """Prices on which a second catalog disagrees; printed a line each."""

    __slots__ = ()

    def __str__(self) -> str:
        return show_changes.check_text(self)


class PriceDifference(Shown, Difference):
    """The prices that moved; printed a line each."""

    __slots__ = ()

    def __str__(self) -> str:
        return show_changes.difference_text(self)


class PlanPrices(Shown, PlanDifference):
    """A plan at today's prices and the cheapest mix now; printed as sentences."""

    __slots__ = ()

    def __str__(self) -> str:
        return repricing_text(self) + repricing_note(self)


class Snapshots(Shown, tuple[Manifest, ...]):
    """What was fetched, oldest first; printed a line each."""

    __slots__ = ()

    def __str__(self) -> str:
        return show_changes.snapshots_text(self)


def prices(
    *,
    accelerators: str = "",
    infra: str = "",
    offers: AnyPath | None = None,
    spec: AnySpec | None = None,
    as_of: str | None = None,
) -> Prices:
    """Return the offers that a plan would see, blocked ones included. Opens no socket.

    Args:
        accelerators: Only these, "A,B:N" (NAME or NAME:COUNT); empty for all.
        infra: Only these clouds or regions, "aws,gcp/us-central1"; empty for all.
        offers: CSV of your own offers; they replace equal instances of the catalogs.
        spec: A spec file or the same as a dict: the offers that it states count, too.
        as_of: The snapshot of that date (or id), not the newest.

    Returns:
        The offers with their flags, sources and dates; prices are USD per hour of an instance.

    Raises:
        InputError: A cloud, region, accelerator or snapshot is unknown, or the CSV unreadable.
        SourceUnavailableError: No source has any such offer.
    """
    book = work.list_prices(
        accelerators=accelerators,
        infra=infra,
        offers=path_of(offers),
        spec=None if spec is None else source_of(spec),
        as_of=as_of,
    )
    return as_result(Prices, book)


def price_terms(
    *,
    accelerators: str = "",
    infra: str = "",
    offers: AnyPath | None = None,
    commitments: AnyPath | None = None,
) -> PriceTerms:
    """Return what clouds ask for a promised term, beside on demand. Opens no socket.

    Args:
        accelerators: Only these, "A,B:N" (NAME or NAME:COUNT); empty for all.
        infra: Only these clouds or regions, "aws,gcp/us-central1"; empty for all.
        offers: CSV of your own offers, to hold terms against.
        commitments: CSV of negotiated terms; they replace listed ones of the same instance and term.

    Returns:
        The terms with discount, break-even utilisation, source, date and flags; prices are USD per hour of an
        instance.

    Raises:
        InputError: A cloud, region or accelerator is unknown, or a CSV cannot be used (a line per fault).
        SourceUnavailableError: No source has any such offer.
    """
    book = work.list_terms(
        accelerators=accelerators,
        infra=infra,
        offers=path_of(offers),
        commitments=path_of(commitments),
    )
    return as_result(PriceTerms, book)


def cluster_offers(*, context: str | None = None) -> str:
    """Return a CSV of offers for what SkyPilot sees in a Kubernetes cluster, prices to be filled in.

    Asks SkyPilot's API server, as `sky gpus list --infra k8s` does, which starts a local one where none runs.

    Args:
        context: Of kubeconfig; None for the current one.

    Returns:
        The text of a CSV of your own offers.

    Raises:
        SourceUnavailableError: SkyPilot cannot be asked, or sees no GPU there.
    """
    return work.cluster_offers(context)


def refresh_prices(
    *,
    infra: str = "",
    sources: Sequence[str] = (),
    deadline_s: float = work.REFRESH_DEADLINE_S,
    offline: bool = False,
) -> Refreshed:
    """Pull prices now; ends within a minute whatever a server does.

    Args:
        infra: Only these clouds or regions, "aws,gcp/us-central1"; empty for all.
        sources: Provider APIs to fetch prices and terms from too: "aws", "azure",
            "cyclenerd" (of GCP, no key), "gcp", "runpod", "vast".
        deadline_s: Seconds that one file may take.
        offline: Open no socket: refused, as a refresh needs the network.

    Returns:
        What was fetched, found unchanged, failed (with the reason) and the new snapshot.

    Raises:
        InputError: A cloud or source is unknown, or the network is forbidden.
        SourceUnavailableError: Nothing came, or what came could not be kept.
    """
    result = work.refresh_prices(
        infra=infra, sources=tuple(sources), deadline_s=deadline_s, offline=offline
    )
    work.require_prices(result)
    return as_result(Refreshed, result)


def check_prices(
    *,
    infra: str = "",
    deadline_s: float = work.CHECK_DEADLINE_S,
    offline: bool = False,
) -> Checked:
    """Compare the prices at hand with gpuhunt's, a catalog collected independently of SkyPilot's.

    Args:
        infra: Only these clouds or regions; empty for all.
        deadline_s: Seconds that the second catalog may take.
        offline: Open no socket: refused, as the second catalog needs the network.

    Returns:
        How many prices both know, and those over 15 % apart.

    Raises:
        InputError: gpuhunt (extra `melange-sky[gpuhunt]`) is not installed, or the network forbidden.
        SourceUnavailableError: Nothing came by the deadline.
    """
    check = work.check_prices(infra=infra, deadline_s=deadline_s, offline=offline)
    return as_result(Checked, check)


def price_snapshots() -> Snapshots:
    """Return what was fetched, oldest first: the ids that `as_of` and `diff_prices` take.

    Returns:
        A `Manifest` per snapshot; none where nothing was ever fetched.
    """
    return Snapshots(work.price_snapshots())


def diff_prices(
    before: str | None = None,
    after: str | None = None,
    *,
    accelerators: str = "",
    infra: str = "",
    min_change: float = 0.0,
) -> PriceDifference:
    """Return what moved between two snapshots. Opens no socket.

    Args:
        before: A snapshot's id, a date, or "embedded"; None for the last pull but one.
        after: The same; None for the last pull.
        accelerators: Only these, "A,B:N"; empty for all.
        infra: Only these clouds or regions; empty for all.
        min_change: Only prices that moved by this fraction, and those that came or went.

    Returns:
        The changes, largest first; prices are USD per hour of an instance.

    Raises:
        InputError: A snapshot, cloud, region or accelerator is unknown.
        SourceUnavailableError: There are not two snapshots to compare.
    """
    moved = work.diff_prices(
        before, after, accelerators=accelerators, infra=infra, min_change=min_change
    )
    return as_result(PriceDifference, moved)


def diff_plan(
    plan: AnyPlan,
    *,
    spec: AnySpec | None = None,
    offers: AnyPath | None = None,
    time_limit_s: float = 30.0,
) -> PlanPrices:
    """Return what a saved plan costs at the newest prices at hand, and the cheapest mix now.

    Args:
        plan: A plan, or the plan.json or folder of one.
        spec: A spec file or the same as a dict, planned anew over all offers so that its limits hold;
            None weighs the plan's own options.
        offers: CSV of your own offers.
        time_limit_s: Seconds for finding the cheapest mix now.

    Returns:
        Each allocation then and now, and the cheapest mix; costs are USD per hour.

    Raises:
        InputError: There is no plan, or its prices were given by a Mélange config.
    """
    moved = reprice_plan(
        plan_of(plan),
        spec=None if spec is None else source_of(spec),
        offers=path_of(offers),
        time_limit_s=time_limit_s,
    )
    return as_result(PlanPrices, moved)
