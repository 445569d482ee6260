"""A report holds every number of its plan, fetches nothing, runs nothing, and is the same twice."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from melange_sky.capacities import Origin
from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan
from melange_sky.planner.output_files import check_target
from melange_sky.planner.price_history import PriceHistory, PricePoint, price_histories
from melange_sky.report.figures import plan_figures
from melange_sky.report.html import page_html, plan_page
from tests.cli.runner import ROOT, call
from tests.factories import (
    make_offer,
    make_plan,
)
from tests.report.plans import HOSTILE, PLANS, example, hostile, replayed
from tests.report.reading import SVG, check_inert, numbers_in, numbers_of, parsed, text_of

pytestmark = pytest.mark.usefixtures("kept_estimates")


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_number_of_allocations_baselines_totals_and_verification_is_in_it(name: str) -> None:
    plan = PLANS[name]()
    document = json.loads(dump_plan(plan))
    html = page_html(plan_page(plan))
    shown = numbers_in(parsed(html))
    for one in document.get("models", [document]):
        wanted = [
            one["allocations"],
            one["baselines"],
            one["verification"] or {},
            one["slo"]["attainment"],
        ]
        sizes = {*range(100)}  # places in the grid, which the page tells by its edges
        missing = set(numbers_of(wanted)) - shown - sizes
        assert not missing
    totals = ("cost_usd_per_hour", "mip_gap", "solve_seconds", "bound_usd_per_hour", "headroom")
    assert {float(document[key]) for key in totals if document.get(key) is not None} <= shown


@pytest.mark.parametrize("name", sorted(PLANS))
def test_it_is_complete_in_itself_small_and_the_same_twice(name: str) -> None:
    plan = PLANS[name]()
    html = page_html(plan_page(plan))
    assert html == page_html(plan_page(plan))
    assert len(html.encode()) < 2_000_000
    check_inert(parsed(html))
    for address in ("http:", "https:", "//"):
        assert address not in html.replace("http-equiv", "")


def test_every_figure_has_its_table_its_origin_in_words_and_its_text_as_text() -> None:
    for plan in (make() for make in PLANS.values()):
        figures = plan_figures(plan)
        assert len({figure.name for figure in figures}) == len(figures)
        for figure in figures:
            assert figure.table.rows and figure.caption and figure.origin
            assert all(len(row) == len(figure.table.header) for row in figure.table.rows)
            assert (
                "<text" in figure.svg
                and "<script" not in figure.svg
                and "font-family" in figure.svg
            )


def test_how_a_capacity_is_known_is_a_hatch_and_a_word() -> None:
    def drawn(origin: Origin) -> tuple[str, str]:
        plan = replayed()
        (allocation, *_), (model,) = plan.models[0].allocations, plan.models
        cells = tuple(
            tuple(replace(cell, origin=origin if cell.max_rate_rps else None) for cell in row)
            for row in allocation.candidate.cells
        )
        known = replace(allocation, candidate=replace(allocation.candidate, cells=cells))
        figure = next(
            f
            for f in plan_figures(
                replace(plan, models=(replace(model, allocations=(known,), candidates=()),))
            )
            if f.name == "load"
        )
        return figure.svg, figure.origin

    measured, estimated, calibrated = map(
        drawn, (Origin.MEASURED, Origin.ESTIMATED, Origin.CALIBRATED)
    )
    assert "<pattern" not in measured[0] and ">measured<" in measured[0]
    assert "<pattern" in estimated[0] and ">estimated<" in estimated[0]
    assert "<pattern" in calibrated[0] and ">calibrated on a few measurements<" in calibrated[0]
    hatch = [
        svg.partition("<pattern")[2].partition("</pattern>")[0]
        for svg in (estimated[0], calibrated[0])
    ]
    assert hatch[0] != hatch[1]
    assert [words for _, words in (measured, estimated, calibrated)] == [
        "Capacities: measured.",
        "Capacities: estimated.",
        "Capacities: calibrated on a few measurements.",
    ]
    all_of_them = {origin.value: drawn(origin) for origin in Origin}
    assert len({words for _, words in all_of_them.values()}) == len(Origin)
    assert {name for name, (svg, _) in all_of_them.items() if "<pattern" not in svg} == {
        "measured",
        "given",
    }


def test_the_saving_says_whether_it_was_verified() -> None:
    assert "by estimate, not verified, against H100 alone" in text_of(
        parsed(page_html(plan_page(example("chat.yaml"))))
    )
    told = text_of(parsed(page_html(plan_page(replayed()))))
    assert "by the same replay, against H100 alone" in told and "Holds in replay:" in told


def test_hostile_names_stay_words() -> None:
    point = PricePoint(
        time="2026-11-20T00:00:00Z", usd_per_hour=1.0, source=HOSTILE, flags=(HOSTILE,)
    )
    history = PriceHistory(
        cloud=HOSTILE,
        region=HOSTILE,
        instance_type=HOSTILE,
        use_spot=False,
        planned_usd_per_hour=1.0,
        planned_as_of=HOSTILE,
        points=(point,),
    )
    html = page_html(plan_page(hostile(), (history,)))
    document = parsed(html)
    check_inert(document)
    assert not {"\x1b", "\x00", "\u202e", "\u2066"} & set(html)
    assert "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&?[31m??gnp.? שלום" in text_of(
        document
    )
    assert any("<script>" in "".join(element.itertext()) for element in document.iter(f"{SVG}text"))


def test_a_pull_that_was_flagged_is_marked_in_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from melange_sky.offers import Flag, FlagScope, Severity
    from melange_sky.pricing.store import Entry, Store, Update, table_name, utc_text
    from melange_sky.pricing.tables import encode_table

    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path))
    odd = Flag(code="odd", severity=Severity.BLOCK, touches=FlagScope.ROW, message="odd")
    noon = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)
    for day, (price, flags) in enumerate(((1.0, ()), (1.2, ()), (0.01, (odd,)))):
        data = encode_table("aws", [make_offer(price_usd_per_hour=price, flags=flags)])
        at = utc_text(noon + timedelta(days=day))
        entry = Entry(
            source="hosted",
            label="a catalog",
            url="u",
            fetched_at=at,
            checked_at=at,
            sha256="0",
            table=table_name("aws", data),
            offers=1,
            parser=1,
        )
        Store().commit(
            Update(entries={"aws": entry}, tables={entry.table: data}), noon + timedelta(days=day)
        )
    history, other = price_histories(make_plan())
    assert other.points == ()
    assert [(p.usd_per_hour, p.flags) for p in history.points] == [
        (1.0, ()),
        (1.2, ()),
        (0.01, ("odd",)),
    ]
    html = page_html(plan_page(make_plan(), (history,)))
    told = text_of(parsed(html))
    assert (
        "How these prices moved" in told
        and "flagged: kept out of plans" in told
        and "2026-11-22T12:00:00Z" in told
    )
    assert {1.0, 1.2, 0.01} <= numbers_in(parsed(html))


def test_report_replaces_reports_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text(dump_plan(make_plan()), encoding="utf-8")
    target = tmp_path / "r.html"
    for _ in range(2):
        assert call(capsys, "report", str(tmp_path), "-o", str(target)) == (
            0,
            "",
            f"wrote {target}\n",
        )
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: precious\n", encoding="utf-8")
    code, _, told = call(capsys, "report", str(tmp_path), "-o", str(spec))
    assert (code, told) == (
        2,
        f"error: {spec}: is there already and no report of melange-sky; name another file\n",
    )
    assert spec.read_text(encoding="utf-8") == "name: precious\n"
    gone = tmp_path / "none" / "r.html"
    code, _, told = call(capsys, "report", str(tmp_path), "-o", str(gone))
    assert (code, told) == (
        2,
        f"error: {gone}: cannot be written (there is no folder {gone.parent})\n",
    )
    with pytest.raises(InputError, match="is a folder; name a file"):
        check_target(tmp_path)


def test_a_plan_is_drawn_as_a_picture_whose_kind_is_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = str(ROOT / "examples" / "chat.yaml")
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        first, second = tmp_path / name, tmp_path / f"again-{name}"
        for path in (first, second):
            plan = ("plan", spec, "--offline", "-o", str(tmp_path / "plan"), "--figure", str(path))
            assert call(capsys, *plan)[0] == 0
        assert first.read_bytes() == second.read_bytes() and first.read_bytes().startswith(start)
    code, _, told = call(capsys, "plan", spec, "--figure", "a.jpg")
    assert (code, told) == (2, "error: --figure a.jpg: the name must end in .png or .svg\n")


def test_reports_and_pictures_within_a_plans_folder_do_not_stop_the_next_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "chat-plan"
    spec = str(ROOT / "examples" / "chat.yaml")
    plan = ("plan", spec, "--offline", "-o", str(folder))
    assert call(capsys, *plan)[0] == 0
    names = ("report.html", "mix.png", "mix.svg")
    assert call(capsys, "report", str(folder), "-o", str(folder / names[0]))[0] == 0
    for name in names[1:]:
        assert call(capsys, *plan, "--figure", str(folder / name))[0] == 0
    kept = {name: (folder / name).read_bytes() for name in names}
    assert call(capsys, *plan)[0] == 0
    assert {name: (folder / name).read_bytes() for name in names} == kept
    (folder / "mine.html").write_text("<p>mine</p>", encoding="utf-8")
    code, _, told = call(capsys, *plan)
    assert code == 2 and "edited since: mine.html; choose" in told


def test_a_plan_pays_for_no_figure(tmp_path: Path) -> None:
    hide = "import sys; sys.modules.update(dict.fromkeys(('matplotlib', 'jinja2')))"
    run = f"{hide}; from melange_sky.cli import main; main()"
    arguments = (
        "plan",
        str(ROOT / "examples" / "chat.yaml"),
        "--offline",
        "-o",
        str(tmp_path / "p"),
    )
    for code in ((run, *arguments), (f"{hide}; import melange_sky; melange_sky.plan",)):
        done = subprocess.run(
            [sys.executable, "-c", *code], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
