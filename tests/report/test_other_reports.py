"""Reports of replays, sweeps, comparisons and reservations hold their numbers, and draw what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import melange_sky
from melange_sky.capacities import Origin
from melange_sky.optimizer import SweepPoint
from melange_sky.planner.comparison import Contender
from melange_sky.report.figures.rates import comparison_figure, sweep_figures
from melange_sky.report.figures.replays import simulation_figures
from melange_sky.report.figures.week import RENTED, reserve_figures
from melange_sky.report.html import (
    comparison_page,
    page_html,
    reserve_page,
    simulation_page,
    sweep_page,
)
from melange_sky.report.simulation import simulation_document
from tests.cli.runner import call
from tests.factories import make_plan
from tests.report.reading import check_inert, numbers_in, numbers_of, parsed, text_of


def point(
    rate: float, cost: float | None, mix: tuple[tuple[str, int], ...], **over: Any
) -> SweepPoint:
    values: dict[str, Any] = {
        "rate_rps": rate,
        "tpot_s": 0.06,
        "cost_usd_per_hour": cost,
        "status": "optimal",
        "mix": mix,
        "best_single": "A10G",
        "best_single_usd_per_hour": None if cost is None else cost * 1.1,
        "reason": None,
        "origin": None if cost is None else Origin.ESTIMATED,
    }
    return SweepPoint(**{**values, **over})


POINTS = (
    point(1, 1.5, (("a10g", 1),)),
    point(2, 2.5, (("a10g", 2),)),
    point(4, 4.25, (("a10g", 1), ("h100", 1)), origin=Origin.OBSERVED),
    point(8, None, (), reason="too much"),
    point(16, 9.75, (("h100", 2),)),
    point(1, 3.5, (("h100", 1),), tpot_s=0.02),
)


def test_a_sweep_shows_every_point_and_where_the_types_change() -> None:
    first, second = sweep_figures(POINTS)
    assert (first.title, second.title) == (
        "Cost over the rate, TPOT 60 ms",
        "Cost over the rate, TPOT 20 ms",
    )
    assert first.caption == (
        "Diamonds are where the types of the mix change: 2 times here. 1 of 5 points have no plan; the table says why."
    )
    assert first.origin == (
        "Capacities: learnt from observed traffic, estimated. Each point is planned on these, none was replayed."
    )
    changes = first.table.header.index("the mix changes")
    assert [row[0].value for row in first.table.rows if row[changes].text == "yes"] == [4, 16]
    document = parsed(page_html(sweep_page(POINTS, "chat")))
    check_inert(document)
    wanted = {p.rate_rps for p in POINTS} | {
        p.cost_usd_per_hour for p in POINTS if p.cost_usd_per_hour
    }
    assert wanted <= numbers_in(document)
    assert "none was replayed" in text_of(document) and "too much" in text_of(document)


def test_a_comparison_shows_what_the_mix_saves() -> None:
    rows = [
        Contender(
            rate_rps=rate,
            kind=kind,
            fleet="f",
            paper_usd_per_hour=cost * 0.9,
            usd_per_hour=cost,
            attainment=0.97,
            low=0.96,
        )
        for rate in (1.0, 8.0)
        for kind, cost in (("mix", 3.0 * rate), ("H100", 4.0 * rate))
    ]
    rows.append(
        Contender(rate_rps=8.0, kind="L4", reason="no fleet was found that holds", late=True)
    )
    figure = comparison_figure(rows)
    saves = figure.table.header.index("the mix saves")
    assert [row[saves].value for row in figure.table.rows] == [None, 0.25, None, 0.25, None]
    assert "C L4: no fleet found in time" in " ".join(re.findall(r">([^<]+)<", figure.svg)).replace(
        "  ", " "
    )
    document = parsed(page_html(comparison_page(rows, "chat")))
    check_inert(document)
    assert {3.0, 4.0, 24.0, 32.0, 0.25} <= numbers_in(document)
    assert "a cheaper fleet may hold" in text_of(document)
    one = comparison_figure(rows[:2])
    assert "$3.00" in one.svg and "requests per second" not in one.svg


def test_a_fleet_that_is_paid_for_already_can_be_drawn() -> None:
    rows = [Contender(rate_rps=rate, kind="the mix", usd_per_hour=0.0) for rate in (1.0, 2.0)]
    for figure in (comparison_figure(rows), comparison_figure(rows[:1])):
        assert "the mix" in figure.svg


def test_a_replay_shows_its_interval_and_its_latencies() -> None:
    simulations = melange_sky.simulate(make_plan(), duration_s=120, ci=0.5)
    (simulation,) = simulations
    known = simulation_document(simulation)
    document = parsed(page_html(simulation_page(simulations, "chat")))
    check_inert(document)
    shown = {float(f"{number:.9g}") for number in numbers_in(document)}
    for key in (
        "attainment",
        "attainment_interval",
        "ttft_s",
        "tpot_s",
        "e2e_s",
        "goodput_rps",
        "requests",
        "judged_requests",
    ):
        assert set(numbers_of(known[key])) <= shown, key
    for option in known["allocations"]:
        assert {option["utilization"], float(option["requests"])} <= shown
    ttft = next(figure for figure in simulation_figures(simulation) if figure.name == "ttft")
    times = [float(str(row[1].value)) for row in ttft.table.rows]
    assert times == sorted(times) and "limit of the SLO" in ttft.svg


def reservation(**over: Any) -> dict[str, Any]:
    """Three hours of two fleets: one committed L4 throughout, an H100 rented in the middle."""
    fleet = {
        "accelerator": "L4:1",
        "cloud": "aws",
        "region": "r",
        "instance_type": "g6.xlarge",
        "price_usd_per_hour": 0.8,
    }
    base = {**fleet, "option": "l4", "instances": 2, "owned": 1, "committed": 1, "rented": 0}
    peak = {**fleet, "option": "h100", "instances": 1, "owned": 0, "committed": 0, "rented": 1}
    term = {
        "cloud": "aws", "region": "r", "instance_type": "g6.xlarge", "term": "1 year", "all_in_usd_per_hour": 0.51,
        "upfront_usd": 123.5, "on_demand_usd_per_hour": 0.8, "break_even_utilization": 0.6375,
        "expected_utilization": 0.875, "span_usd": 1.53, "source": "contract", "as_of": "2026-11-01",
        "count": 1, "name": "aws/r g6.xlarge, 1 year",
    }  # fmt: skip
    values: dict[str, Any] = {
        "schema_version": 1,
        "name": "chat",
        "model": "m",
        "created_at": "2026-11-01T00:00:00Z",
        "demand": {
            "source": "week.csv", "start": "2026-11-02T00:00:00+00:00", "step_s": 3600.0, "hours": 3.0,
            "mean_rps": 5.0, "peak_rps": 9.0, "rates_rps": [3.0, 9.0, 3.0],
        },
        "commitments": [term],
        "periods": [
            {"hours": [0, 2], "rate_rps": 3.0, "plan": "fleet-01.json", "fleet": [base], "attainment": 0.9725},
            {"hours": [1], "rate_rps": 9.0, "plan": "fleet-02.json", "fleet": [base, peak], "attainment": None},
        ],
        "totals": {
            "chosen_usd": 9.0, "all_on_demand_usd": 12.0, "commit_peak_usd": 14.5, "best_single_usd": None,
            "bound_usd": 8.0, "committed_usd": 1.53, "upfront_usd": 0.25, "span_hours": 3.0,
        },
        "scenarios": [
            {"name": "as given", "weight": 1.0, "cost_usd": 9.0, "regret_usd": 0.125, "nothing_usd": 12.0, "best_usd": 8.875}
        ],
        "gap": 0.0125,
        "flip_fraction": 0.3,
        "verification": None,
        "prices": [{"what": "aws g6", "usd_per_hour": 0.8, "source": "s", "as_of": "2026-11-01", "age_days": 2, "stale": False}],
        "prices_as_of": "2026-11-01",
        "notes": ["taxes are in no total"],
    }  # fmt: skip
    return {**values, **over}


def test_a_reservation_shows_base_and_peak_hour_by_hour() -> None:
    document = reservation()
    html = page_html(reserve_page(document))
    assert html == page_html(reserve_page(document))
    page = parsed(html)
    check_inert(page)
    keys = ("totals", "scenarios", "gap")
    assert {n for key in keys for n in numbers_of(document[key])} <= numbers_in(page)
    told = text_of(page)
    assert "Commit to 1 × aws/r g6.xlarge, 1 year. Rent the rest hour by hour." in told
    assert "base: committed or owned" in told and "peak: rented" in told and "25.0%" in told
    fleets = next(figure for figure in reserve_figures(document) if figure.name == "fleets")
    counts = [[cell.value for cell in row[3:7]] for row in fleets.table.rows]
    assert counts == [[2, 1, 1, 0], [2, 1, 1, 0], [1, 0, 0, 1]]
    assert RENTED and "<pattern" in fleets.svg


def test_a_long_demand_shows_the_week_around_its_peak() -> None:
    rates = [1.0] * (24 * 28)
    rates[24 * 10 + 5] = 50.0
    demand = {**reservation()["demand"], "rates_rps": rates, "hours": 672.0, "peak_rps": 50.0}
    periods = [{**reservation()["periods"][0], "hours": list(range(672))}]
    figure = reserve_figures(reservation(demand=demand, periods=periods))[1]
    assert len(figure.table.rows) == 168 and "The week around the peak is drawn." in figure.caption
    assert figure.table.rows[0][0].text == "2026-11-09T00:00+00:00"
    assert max(float(str(row[1].value)) for row in figure.table.rows) == 50.0


def test_the_folder_of_a_reservation_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, file = tmp_path / "r.html", tmp_path / "reserve.json"
    file.write_text(json.dumps(reservation()), encoding="utf-8")
    for path in (tmp_path, file):
        assert call(capsys, "report", str(path), "-o", str(target))[0] == 0
        assert "Reservation" in target.read_text(encoding="utf-8")
    kept = target.read_bytes()
    for damage, words in (
        (
            json.dumps({"schema_version": 1}),
            "error: reserve.json is damaged (KeyError: 'name'); run reserve again\n",
        ),
        (
            json.dumps({"schema_version": 9}),
            f"error: {file}: is no reservation of this version; run reserve again\n",
        ),
    ):
        file.write_text(damage, encoding="utf-8")
        assert call(capsys, "report", str(tmp_path), "-o", str(target))[::2] == (2, words)
    assert target.read_bytes() == kept
