"""What replays found: attainment with its interval, fleet by fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.report.figures.canvas import DASHES, few_ticks, name_ticks, text_width
from melange_sky.report.figures.chart import Cell, Chart, Grid, Key
from melange_sky.report.figures.figure import Figure
from melange_sky.report.figures.numbers import percent, short_usd, usd
from melange_sky.report.figures.style import INK, MUTED, SERIES
from melange_sky.report.verification import verification_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from melange_sky.plans import ModelPlan, Verification

SIMULATED = "Simulated: each request replayed through an engine model, not through GPUs."


def attained_figure(model: ModelPlan) -> Figure | None:
    """Return each replayed fleet's cost and attainment; None where nothing was replayed."""
    verified = model.verification
    if verified is None:
        return None
    return Figure(
        name="replays",
        title="Fleets that were replayed",
        caption=" ".join(verification_text(model).split("\n")[1:]).strip()
        or "Cost and attainment of each.",
        origin=SIMULATED,
        table=_table(model, verified),
        chart=_chart(model, verified),
    )


def _chart(model: ModelPlan, verified: Verification) -> Chart:
    target, cost = model.slo.attainment, model.cost_usd_per_hour
    others = [(r.cost_usd_per_hour, r.attainment, r.low, r.high) for r in verified.rounds]
    least = min([target, verified.low, *(low for *_, low, _ in others)])
    least = max(0.0, min(least, target - 0.02) - 0.01)
    label = f"{least:.1%}"

    def draw(axes: Axes) -> None:
        axes.set_ylim(least, 1.0 + (1 - least) * 0.03)
        axes.grid(visible=True)
        for x, attained, low, high in others:
            axes.plot([x, x], [low, high], color=MUTED, linewidth=1.0)
            axes.plot([x], [attained], color=MUTED, marker="o", markersize=4, linestyle="")
        axes.plot([cost, cost], [verified.low, verified.high], color=SERIES[0], linewidth=2.4)
        axes.plot(
            [cost], [verified.attainment], color=SERIES[0], marker="D", markersize=7, linestyle=""
        )
        axes.axhline(target, color=INK, linewidth=1.4, linestyle=DASHES)
        axes.margins(x=0.08)
        axes.locator_params(axis="y", nbins=5)
        few_ticks(axes)
        name_ticks(axes, lambda part: f"{part * 100:.4g}%", axis="y")
        name_ticks(axes, short_usd)

    return Chart(
        draw=draw,
        height=170.0,
        row_labels=(label,) if text_width(label) > text_width("99.5%") else ("99.55%",),
        x_label="cost an hour",
        y_label="requests within the SLO",
        keys=(
            Key(label="this plan, its worst replay", mark="diamond", colour=SERIES[0]),
            Key(label="other fleets", mark="point", colour=MUTED),
            Key(label=f"target {target:.4g}", mark="line", dashed=True),
            Key(label="95 % interval", mark="line", colour=MUTED),
        ),
    )


def _table(model: ModelPlan, verified: Verification) -> Grid:
    ours = (
        Cell(f"this plan: {model.fleet_text()}"),
        usd(model.cost_usd_per_hour),
        percent(verified.attainment, 2),
        percent(verified.low, 2),
        percent(verified.high, 2),
    )
    rows = [
        (
            Cell(one.fleet),
            usd(one.cost_usd_per_hour),
            percent(one.attainment, 2),
            percent(one.low, 2),
            percent(one.high, 2),
        )
        for one in verified.rounds
    ]
    header = ("fleet", "$/h", "within SLO", "interval from", "to")
    return Grid(header=header, rows=(ours, *rows))
