"""The report of a reservation, from what reserve.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from melange_sky.errors import InputError
from melange_sky.report.figures import Cell, Grid
from melange_sky.report.figures.numbers import count, percent, plain, short_usd, usd, words
from melange_sky.report.figures.week import reserve_figures
from melange_sky.report.html.document import Page, Section, Table, Tile, Verdict
from melange_sky.version import __version__

Document = Mapping[str, Any]


def reserve_page(document: Document) -> Page:
    """Return the report of a reservation; InputError where the document lacks what reserve writes."""
    try:
        return _page(document)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}"
        raise InputError(f"reserve.json is damaged ({told[:120]}); run reserve again") from None


def _page(document: Document) -> Page:
    return Page(
        title=document["name"],
        kind="Reservation",
        lead=(
            f"{document['model']} over {document['demand']['hours']:,g} hours of {document['demand']['source']}",
        ),
        verdict=_verdict(document),
        tiles=_tiles(document),
        sections=(
            Section(
                title="What to commit to, and what to rent",
                paragraphs=(_advice(document),),
                figures=reserve_figures(document),
            ),
            *_scenarios(document),
            Section(
                title="Prices and terms",
                tables=(
                    Table(grid=_prices(document), title="What was reckoned with", folded=True),
                ),
                notes=tuple(document["notes"]),
            ),
        ),
        foot=(
            f"Advised {document['created_at']} by melange-sky {__version__}; the oldest price is of {document['prices_as_of'] or 'an unknown date'}.",
            "This file is complete in itself: nothing is fetched when it is read.",
        ),
    )


def _verdict(document: Document) -> Verdict:
    proof = document["verification"]
    if proof is None:
        return Verdict(
            word="By estimate.",
            text="No fleet was replayed: reserve --verify replays them all.",
            mood="open",
        )
    text = (
        f"{proof['attainment']:.2%} of {proof['requests']:,} requests within the SLO over {proof['hours']:,g} hours,"
        f" target {proof['target'] * 100:.4g}%; {proof['in_one_run']['attainment']:.2%} in one run in which replicas take"
        f" {proof['in_one_run']['startup_s']:,.0f} s to start; {proof['fleets']} fleets were replayed."
        f" {' '.join(proof['missed'])}"
    )
    holds = proof["holds"]
    return Verdict(
        word="Holds in replay." if holds else "Does NOT hold in replay.",
        text=text,
        mood="good" if holds else "bad",
    )


def _tiles(document: Document) -> tuple[Tile, ...]:
    totals = document["totals"]
    chosen, rented, hours = totals["chosen_usd"], totals["all_on_demand_usd"], totals["span_hours"]
    saving = None if not rented else 1 - chosen / rented
    how = "by estimate" if document["verification"] is None else "fleets replayed"
    return (
        Tile(
            label="cost over the demand",
            cell=usd(chosen),
            note=f"{short_usd(chosen / hours)} an hour over {hours:,g} hours",
        ),
        Tile(label="saving", cell=percent(saving), note=f"{how}, against renting all on demand"),
        Tile(
            label="committed",
            cell=usd(totals["committed_usd"]),
            note=f"of it upfront {usd(totals['upfront_usd']).text}",
        ),
        Tile(
            label="over the bound",
            cell=percent(_over(chosen, totals["bound_usd"])),
            note="against a perfect autoscaler",
        ),
        Tile(
            label="proven",
            cell=percent(document["gap"], 2),
            note="at most so much dearer than the best advice",
        ),
    )


def _over(cost: float, bound: float | None) -> float | None:
    return None if not bound else cost / bound - 1


def _advice(document: Document) -> str:
    rows = document["commitments"]
    if not rows:
        return "Commit to nothing: rent every hour as it comes."
    parts = [f"{one['count']} × {one['name']}" for one in rows]
    return f"Commit to {'; '.join(parts)}. Rent the rest hour by hour."


def _scenarios(document: Document) -> tuple[Section, ...]:
    rows = tuple(
        (
            Cell(one["name"]),
            Cell(plain(one["weight"]), one["weight"]),
            usd(one["cost_usd"]),
            usd(one["regret_usd"]),
            usd(one["nothing_usd"]),
            usd(one["best_usd"]),
        )
        for one in document["scenarios"]
    )
    header = (
        "scenario",
        "weight",
        "cost",
        "regret",
        "cost with nothing committed",
        "cost of its own best",
    )
    flip = document["flip_fraction"]
    told = () if flip is None else (f"The advice pays until on-demand prices fall by {flip:.0%}.",)
    return (
        Section(
            title="If it comes otherwise",
            paragraphs=told,
            tables=(Table(grid=Grid(header=header, rows=rows)),),
        ),
    )


def _prices(document: Document) -> Grid:
    rows = tuple(
        (
            Cell(one["what"]),
            usd(one["usd_per_hour"]),
            Cell(one["source"]),
            words(one["as_of"]),
            count(one["age_days"]),
            Cell("yes" if one["stale"] else "no"),
        )
        for one in document["prices"]
    )
    return Grid(
        header=("what", "$/h", "source", "as of", "days ago", "older than a day"), rows=rows
    )
