"""What the candidates of several models share stands once in the document, and is told by its place.

A plan of many models weighs nearly the same options for each of them. On top of the document stand
`shared_offers`, `shared_engines`, `shared_rates` and `shared_options`; a model's candidate then says
which of them it is made of, and how many engines like that of the rates one of its replicas is. Documents
without these lists hold every candidate as a whole, as those of one model do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.capacities import CapacityCell, DeploymentOption, OptionCapacity

    Cells = tuple[tuple[CapacityCell, ...], ...]
    Document = dict[str, Any]

OFFERS, ENGINES, RATES, OPTIONS = (
    "shared_offers",
    "shared_engines",
    "shared_rates",
    "shared_options",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writers:
    """How each part of a candidate is written as a document: an option without offers and engine."""

    offer: Callable[[Any], Document]
    engine: Callable[[Any], Document]
    rates: Callable[[Cells], Document]
    option: Callable[[DeploymentOption], Document]


@dataclass(slots=True)
class _Once:
    """Documents of different things, each kept once, in the order in which they came."""

    places: dict[Hashable, int] = field(default_factory=dict)
    documents: list[Document] = field(default_factory=list)

    def place(self, key: Hashable, document: Callable[[], Document]) -> int:
        """Return the place of what has this content, which is added where it is new."""
        found = self.places.get(key)
        if found is None:
            found = self.places[key] = len(self.documents)
            self.documents.append(document())
        return found


class SharedParts:
    """The parts of the candidates of several models, collected while these are written."""

    def __init__(self, writers: Writers) -> None:
        """Begin with nothing."""
        self._write = writers
        self._offers, self._engines, self._rates, self._options = (_Once() for _ in range(4))
        self._multiples: dict[tuple[Cells, int], int | None] = {}

    def candidates(self, candidates: Sequence[OptionCapacity]) -> list[Document]:
        """Return a model's candidates, in their order, by the places of their parts."""
        # Replicas of one engine first: those of several are told as so many of them.
        by_engines = sorted(range(len(candidates)), key=lambda k: _engines_of(candidates[k]))
        singles: dict[Cells, int] = {}
        written = {k: self._candidate(candidates[k], singles) for k in by_engines}
        return [written[k] for k in range(len(candidates))]

    def document(self) -> Document:
        """Return the lists that stand on top of the document."""
        parts = (self._offers, self._engines, self._rates, self._options)
        named = zip((OFFERS, ENGINES, RATES, OPTIONS), parts, strict=True)
        return {name: part.documents for name, part in named}

    def _candidate(self, candidate: OptionCapacity, singles: dict[Cells, int]) -> Document:
        option, engine = candidate.option, candidate.option.engine
        rates, engines = self._rates_of(candidate, singles)
        document: Document = {"option": self._option(option), "rates": rates}
        if engine is not None:
            document["engine"] = self._engines.place(engine, partial(self._write.engine, engine))
        return document if engines == 1 else {**document, "engines": engines}

    def _option(self, option: DeploymentOption) -> int:
        places = [
            self._offers.place(offer, partial(self._write.offer, offer)) for offer in option.places
        ]
        own = {"offer": places[0], "fallbacks": places[1:]} if places else {"offer": None}
        document = self._write.option(option) | own
        return self._options.place(repr(document), lambda: document)

    def _rates_of(self, candidate: OptionCapacity, singles: dict[Cells, int]) -> tuple[int, int]:
        """Return the place of the rates of which a candidate has a multiple, and the multiple.

        `singles` are the places of the rates of one engine that this model's candidates have.
        """
        cells, engines = candidate.cells, _engines_of(candidate)
        if engines == 1:
            place = singles[cells] = self._place(cells)
            return place, 1
        if (cells, engines) not in self._multiples:
            alike = (place for one, place in singles.items() if _is_multiple(cells, one, engines))
            self._multiples[cells, engines] = next(alike, None)
        multiple = self._multiples[cells, engines]
        return (self._place(cells), 1) if multiple is None else (multiple, engines)

    def _place(self, cells: Cells) -> int:
        return self._rates.place(cells, lambda: _short(self._write.rates(cells)))


def _engines_of(candidate: OptionCapacity) -> int:
    engine = candidate.option.engine
    return 1 if engine is None else engine.split.simulated_engines


def _is_multiple(cells: Cells, single: Any, engines: int) -> bool:
    """Return whether every figure is exactly so many times that of `single`."""
    if len(cells) != len(single) or any(map(lambda a, b: len(a) != len(b), cells, single)):
        return False
    pairs = [pair for rows in zip(cells, single, strict=True) for pair in zip(*rows, strict=True)]
    # Most differ in their first rate; only what agrees in all of those is compared whole.
    if any(
        (one.max_rate_rps or 0.0) * engines != (cell.max_rate_rps or 0.0) for cell, one in pairs
    ):
        return False
    return all(one.scaled(engines) == cell for cell, one in pairs)


def _short(rates: Document) -> Document:
    """Return rates without rows that say nothing, and one origin where it holds of every cell."""
    origins = {origin for row in rates["origin"] for origin in row}
    if len(origins) == 1:
        rates = {**rates, "origin": origins.pop()}
    if not any(reason for row in rates["reasons"] for reason in row):
        rates = {name: value for name, value in rates.items() if name != "reasons"}
    return rates


def with_whole_candidates(document: Document, where: str) -> Document:
    """Return the document of a plan with every candidate as a whole; raise InputError naming the key."""
    models = document.get("models")
    if OPTIONS not in document or not isinstance(models, list):
        return document
    parts = _Parts(
        lists={name: document.get(name, []) for name in (OFFERS, ENGINES, RATES, OPTIONS)}
    )
    try:
        whole = [parts.model(model, f"models.{m}") for m, model in enumerate(models)]
    except _WrongPartError as wrong:
        raise InputError(f"{where}: {wrong}") from wrong
    return {**document, "models": whole}


class _WrongPartError(Exception):
    """A candidate names a part that is not there."""


@dataclass(slots=True, kw_only=True)
class _Parts:
    """The shared lists as they stand in a document, and what was put together of them already."""

    lists: dict[str, Any]
    options: dict[int, Document] = field(default_factory=dict)
    rates: dict[int, Document] = field(default_factory=dict)

    def model(self, model: Any, where: str) -> Any:
        """Return a model's document with whole candidates; what is no model is left to the reader."""
        if not isinstance(model, dict) or not isinstance(model.get("candidates"), list):
            return model
        whole = [
            self._candidate(candidate, f"{where}.candidates.{n}")
            for n, candidate in enumerate(model["candidates"])
        ]
        return {**model, "candidates": whole}

    def _candidate(self, candidate: Any, where: str) -> Document:
        if not isinstance(candidate, dict):
            raise _WrongPartError(f"{where}: must say which option and rates it has")
        engine = candidate.get("engine")
        return {
            **self._option(candidate.get("option"), f"{where}.option"),
            **self._rates(candidate.get("rates"), f"{where}.rates"),
            "engine": None if engine is None else self._part(ENGINES, engine, f"{where}.engine"),
            "engines": candidate.get("engines", 1),
        }

    def _option(self, place: Any, where: str) -> Document:
        option = self._part(OPTIONS, place, where)
        if place not in self.options:
            offer, named = option.get("offer"), f"{OPTIONS}.{place}"
            others = option.get("fallbacks", [])
            if not isinstance(others, list):
                raise _WrongPartError(f"{named}.fallbacks: must be a list of places")
            self.options[place] = {
                **option,
                "offer": None if offer is None else self._part(OFFERS, offer, f"{named}.offer"),
                "fallbacks": [self._part(OFFERS, o, f"{named}.fallbacks") for o in others],
            }
        return self.options[place]

    def _rates(self, place: Any, where: str) -> Document:
        rates = self._part(RATES, place, where)
        if place not in self.rates:
            rows = rates.get("max_rate_rps")
            if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
                raise _WrongPartError(f"{RATES}.{place}.max_rate_rps: must be rows of rates")
            origin = rates.get("origin")
            self.rates[place] = {
                "reasons": [[None] * len(row) for row in rows],
                **rates,
                "origin": origin
                if isinstance(origin, list)
                else [[origin] * len(row) for row in rows],
            }
        return self.rates[place]

    def _part(self, name: str, place: Any, where: str) -> Document:
        known = self.lists[name]
        is_there = isinstance(place, int) and not isinstance(place, bool)
        if not isinstance(known, list) or not is_there or not 0 <= place < len(known):
            raise _WrongPartError(f"{where}: must be a place in {name}, not {str(place)[:40]}")
        part = known[place]
        if not isinstance(part, dict):
            raise _WrongPartError(f"{name}.{place}: must be an object")
        return part
