"""What is asked of the prices, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.offers import Offer, OwnOffers
from melange_sky.settings import is_offline

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from melange_sky.plans import PlanWarning
    from melange_sky.pricing.refresh import Event

    RefreshDisplay = Callable[[], AbstractContextManager[Callable[[Event], None]]]
    """Opens a display of a refresh and gives the function that takes its events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferQuery:
    """What is asked: infra as (cloud, region or None) pairs, accelerators as NAME or NAME:COUNT.

    Empty tuples ask for everything. `as_of` is a snapshot id or a date: nothing is fetched then.
    `own` are offers that the user states beside `offers_csv`, which wins; `planned` those that a saved
    plan holds of them, which anything newer replaces. `refresh` pulls whatever the age; `sources` names provider APIs to pull from (and so refreshes).
    MELANGE_SKY_OFFLINE forbids the network whatever `offline` says. `progress` opens a display of a
    refresh, given the events. `store_dir` and `now` are for tests and repeats.
    """

    infra: tuple[tuple[str, str | None], ...] = ()
    accelerators: tuple[str, ...] = ()
    offline: bool = False
    refresh: bool = False
    offers_csv: Path | None = None
    own: tuple[OwnOffers, ...] = ()
    planned: tuple[Offer, ...] = ()
    sources: tuple[str, ...] = ()
    as_of: str | None = None
    now: datetime | None = None
    store_dir: Path | None = None
    progress: RefreshDisplay | None = None

    @property
    def forbids_network(self) -> bool:
        """Whether no socket may be opened, by the query or by the environment."""
        return is_offline(self.offline)

    @property
    def own_sources(self) -> tuple[OwnOffers, ...]:
        """Everything that the user states, the last said last."""
        if self.offers_csv is None:
            return self.own
        return (*self.own, OwnOffers(where="--offers", file=self.offers_csv))

    @property
    def clouds(self) -> tuple[str, ...]:
        """The clouds asked for, each once; empty for all."""
        return tuple(dict.fromkeys(cloud for cloud, _ in self.infra))


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferBook:
    """The offers that match, flagged ones included; `snapshot` is the id to repeat the plan with.

    `own_clouds` are those that the user's own offers name: the user knows that they can be used.
    `checked_at` says, per cloud of a source that was asked, when it last said that its prices hold (ISO 8601).
    """

    offers: tuple[Offer, ...]
    snapshot: str | None
    warnings: tuple[PlanWarning, ...] = ()
    own_clouds: tuple[str, ...] = ()
    checked_at: Mapping[str, str] = field(default_factory=dict)
