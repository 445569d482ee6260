"""The report of a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.report.figures import Cell, Grid, history_figure, model_figures
from melange_sky.report.figures.band import band_figure
from melange_sky.report.figures.chart import UNKNOWN
from melange_sky.report.figures.numbers import percent, short_usd, usd
from melange_sky.report.html.document import Page, Section, Table, Tile, Verdict
from melange_sky.report.html.plan_tables import (
    HOURS_A_MONTH,
    factors_grid,
    late_grid,
    misses_grid,
    price_sources,
    replay_facts,
    replica_grid,
    runs_grid,
    solver_facts,
    traffic_facts,
)
from melange_sky.report.plan_table import slo_text, solver_text
from melange_sky.report.savings import current_text
from melange_sky.report.verification import verification_text
from melange_sky.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.plans import ModelPlan, Plan
    from melange_sky.report.figures import Figure
    from melange_sky.report.figures.history import HistoryView


def plan_page(plan: Plan, histories: Sequence[HistoryView] = ()) -> Page:
    """Return a plan's report; `histories` are the prices of what it runs over time, as far as known."""
    history = history_figure(histories, plan)
    return Page(
        title=plan.name,
        kind="Deployment plan",
        lead=plan_lead(plan),
        verdict=_verdict(plan),
        tiles=_tiles(plan),
        sections=(
            *(model_section(plan, n) for n in range(len(plan.models))),
            *_doubt_section(plan, history),
            *_warnings_section(plan),
            _details_section(plan),
        ),
        foot=foot_lines(plan.created_at),
    )


def plan_lead(plan: Plan) -> tuple[str, ...]:
    """Return what is served, a line per model."""
    return tuple(
        f"{f'{model.name}: ' if plan.lists_models else ''}{model.model} at {model.workload.rate_rps:g} requests a second;"
        f" {slo_text(model)}"
        for model in plan.models
    )


def foot_lines(created_at: str) -> tuple[str, ...]:
    """Return where a report is from, and that its prices and capacities were not bought."""
    prices = (
        "Prices are list prices of whole instances in US dollars, as of the date that stands with each; taxes, traffic"
        " and storage are not counted."
    )
    return (
        f"Planned {created_at} by melange-sky {__version__}. {prices}",
        "This file is complete in itself: nothing is fetched when it is read.",
    )


def _verdict(plan: Plan) -> Verdict:
    replayed = [model.verification for model in plan.models if model.verification is not None]
    if len(replayed) < len(plan.models):
        text = (
            "No replay was run: capacities decide whether the SLO holds. plan --verify replays it."
        )
        return Verdict(word="By estimate.", text=text, mood="open")
    texts = [verification_text(model).split("\n")[0] for model in plan.models]
    names = [f"{model.name}: " if plan.lists_models else "" for model in plan.models]
    holds = all(one.holds for one in replayed)
    word, _, rest = texts[0].partition(":")
    if len(texts) == 1:
        return Verdict(word=f"{word}:", text=rest.strip(), mood="good" if holds else "bad")
    told = " ".join(f"{name}{text}" for name, text in zip(names, texts, strict=True))
    return Verdict(
        word="Holds in replay." if holds else "Does NOT hold in replay.",
        text=told,
        mood="good" if holds else "bad",
    )


def _tiles(plan: Plan) -> tuple[Tile, ...]:
    cost = plan.cost_usd_per_hour
    replayed = any(model.verification for model in plan.models)
    tiles = [
        Tile(
            label="cost an hour", cell=usd(cost), note=solver_text(plan.solver, replayed=replayed)
        ),
        Tile(
            label="cost a month",
            cell=Cell(f"${cost * HOURS_A_MONTH:,.0f}", cost * HOURS_A_MONTH),
            note=f"{HOURS_A_MONTH} hours",
        ),
    ]
    if len(plan.models) == 1:
        tiles += _model_tiles(plan.models[0])
    band = plan.sensitivity
    if band is not None:
        ends = [
            "no plan" if end is None else short_usd(end)
            for end in (band.low_usd_per_hour, band.high_usd_per_hour)
        ]
        note = "an hour, at the ends of the estimates' error band"
        tiles.append(
            Tile(label="if the estimates are off", cell=Cell(" to ".join(ends)), note=note)
        )
    return tuple(tiles)


def _model_tiles(model: ModelPlan) -> list[Tile]:
    replayed = model.verification
    saving, against = _best_saving(model)
    how = "by the same replay" if replayed else "by estimate, not verified"
    tiles = [Tile(label="saving", cell=percent(saving), note=f"{how}, {against}")]
    if replayed is None:
        note = "expected of the capacities, not replayed"
        attained = percent(model.planned_attainment, 2)
    else:
        note = f"in replay; 95 % interval {replayed.low:.2%} to {replayed.high:.2%}"
        attained = percent(replayed.attainment, 2)
    note = f"target {model.slo.attainment * 100:.4g}%; {note}"
    return [*tiles, Tile(label="requests within the SLO", cell=attained, note=note)]


def _best_saving(model: ModelPlan) -> tuple[float | None, str]:
    """Return the saving against the best single accelerator, as verified where the plan was."""
    if model.verification is not None:
        costs = [
            (b.verified.cost_usd_per_hour, b.verified.saving_fraction, b.accelerator)
            for b in model.baselines
            if b.verified is not None and model.verification.holds
        ]
    else:
        costs = [
            (b.cost_usd_per_hour, b.saving_fraction, b.accelerator)
            for b in model.baselines
            if b.cost_usd_per_hour is not None
        ]
    if not costs:
        return None, "no single accelerator to hold it against"
    _, saving, name = min(costs)
    return saving, f"against {name} alone"


def model_section(plan: Plan, number: int) -> Section:
    """Return what one model of a plan runs on, who serves what, and what it costs otherwise."""
    model = plan.models[number]
    sources = price_sources(model)
    figures = tuple(
        replace(figure, name=f"{figure.name}-{number + 1}") for figure in model_figures(plan, model)
    )
    misses = misses_grid(model)
    tables = [Table(grid=runs_grid(model, sources))]
    if misses.rows:
        tables.append(
            Table(
                grid=misses, title="Sizes that may miss the SLO, served all the same", folded=True
            )
        )
    late = late_grid(model)
    if late.rows:
        tables.append(Table(grid=late, title="Who serves them late", folded=True))
    if model.verification is not None and (factors := factors_grid(model.verification)):
        tables.append(
            Table(grid=factors, title="What replays taught about capacities", folded=True)
        )
    tables.append(Table(grid=replica_grid(model), title="How replicas are run", folded=True))
    return Section(
        title=f"{model.name}: what runs" if plan.lists_models else "What runs",
        tables=tuple(tables),
        notes=tuple(f"[{n + 1}] price from {source}" for n, source in enumerate(sources)),
        figures=figures,
    )


def _doubt_section(plan: Plan, history: Figure | None) -> tuple[Section, ...]:
    band = band_figure(plan)
    paragraphs = [] if plan.current is None else [current_text(plan.current)]
    found = plan.sensitivity
    if found is not None and found.measure is not None:
        moves = found.measure_usd_per_hour
        amount = (
            "could make the plan fail"
            if moves is None
            else f"moves the cost by up to {short_usd(moves)} an hour"
        )
        paragraphs.append(
            f"Most worth measuring: {found.measure}, above all at {found.measure_size} ({amount}): {found.command or ''}"
        )
    paragraphs += [
        f"Replay {f'of {model.name} ' if plan.lists_models else ''}does not hold because: {model.verification.reason}"
        for model in plan.models
        if model.verification is not None and model.verification.reason
    ]
    tables = []
    if plan.alternatives:
        rows = tuple((usd(mix.cost_usd_per_hour), Cell(mix.differs)) for mix in plan.alternatives)
        tables.append(
            Table(grid=Grid(header=("$/h", "differs"), rows=rows), title="Other good fleets")
        )
    figures = tuple(figure for figure in (band, history) if figure is not None)
    if not (paragraphs or tables or figures):
        return ()
    title = "How sure this is"
    return (
        Section(title=title, paragraphs=tuple(paragraphs), tables=tuple(tables), figures=figures),
    )


def _warnings_section(plan: Plan) -> tuple[Section, ...]:
    told = [(warning, "") for warning in plan.warnings]
    for model in plan.models:
        told += [
            (warning, f"{model.name}: " if plan.lists_models else "") for warning in model.warnings
        ]
    if not told:
        return ()
    notes = tuple(f"{where}{warning.message} [{warning.code}]" for warning, where in told)
    return (Section(title="To know before paying", notes=notes),)


def _details_section(plan: Plan) -> Section:
    facts = [*solver_facts(plan, plan.solver)]
    for model in plan.models:
        where = f"{model.name}: " if plan.lists_models else ""
        found = [*traffic_facts(model)]
        if model.verification is not None:
            found += replay_facts(model.verification)
        facts += [(f"{where}{name}", cell) for name, cell in found]
        facts.append((f"{where}cost an hour of this model", usd(model.cost_usd_per_hour)))
    if plan.price_snapshot is not None:
        facts.append(("price snapshot", Cell(plan.price_snapshot)))
    if plan.sensitivity is not None:
        facts.append(("probability with which estimates are reached", percent(plan.confidence)))
    return Section(
        title="The numbers behind it", facts=tuple((n, c) for n, c in facts if c != UNKNOWN)
    )
