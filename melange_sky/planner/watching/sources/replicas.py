"""What replicas say of themselves where no gateway is asked: `/metrics` of each, by its option."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.planner.watching.sources.counting import Counting, Reading
from melange_sky.planner.watching.sources.fetching import fetch, metrics_url
from melange_sky.planner.watching.sources.together import added
from melange_sky.profiler.scraping import scrape_of
from melange_sky.watching.seen import Fault, Seen

if TYPE_CHECKING:
    from melange_sky.engines import Engine
    from melange_sky.learning import Scrape


@dataclass(slots=True, kw_only=True)
class ReplicaSource:
    """Replicas of one model, each given as OPTION=URL. They count what they finish: what was turned away before
    them, which sizes go together and whether the SLO is met stays unknown.

    `key` is the replicas', never shown. `clock` is in seconds since 1970, `steady` one that nobody sets.
    """

    places: Sequence[str]
    engine: Engine
    key: str | None = field(default=None, repr=False)
    clock: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic
    _counting: dict[tuple[str, str], Counting] = field(init=False)

    def __post_init__(self) -> None:
        """Check what was given. Raises InputError."""
        found = {}
        for place in dict.fromkeys(self.places):
            option, is_one, url = place.partition("=")
            if not is_one or not option.strip():
                raise InputError(
                    f"--metrics: write OPTION=URL, such as L4=http://HOST:8000, not '{place[:80]}'"
                )
            address = metrics_url(url, "--metrics")
            name = f"{option.strip()} at {address.removesuffix('/metrics')}"
            found[option.strip(), address] = Counting(name=name)
        self._counting = found

    def see(self) -> Seen:
        """Return what came since the look before. A replica that does not answer does not serve either."""
        looks, live = [], {option: 0 for option, _ in self._counting}
        for (option, url), counting in self._counting.items():
            reading = self._read(url, counting.name)
            live[option] += not reading.faults
            looks.append(counting.seen(reading))
        return replace(added(looks, self.clock()), live=live)

    def _read(self, url: str, name: str) -> Reading:
        time_s, steady_s = self.clock(), self.steady()
        page = fetch(url, self.key)
        try:
            if page.text is None:
                fault = Fault(code="unreachable", message=f"{name}: {page.why}")
            else:
                return reading_of(scrape_of(page.text, self.engine, time_s, name), steady_s)
        except InputError as error:
            fault = Fault(code="renamed", message=str(error).splitlines()[0])
        return Reading(time_s=time_s, steady_s=steady_s, faults=(fault,))


def reading_of(scrape: Scrape, steady_s: float | None = None) -> Reading:
    """Return a replica's look as counters: requests whose first token came, and those that run or wait."""
    figures = scrape.figures
    counters = ("first_tokens", "decoded", "prompted")
    return Reading(
        time_s=scrape.time_s,
        steady_s=steady_s,
        finished_all=figures["first_tokens"],
        within=figures["waiting"],
        queue=figures["waiting"],
        touched=sum(figures[name] for name in counters) + figures["running"],
        live=None,
    )
