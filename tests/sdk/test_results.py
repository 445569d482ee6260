"""Results print as tables; in notebooks too, where a hostile name stays text."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

import melange_sky
from melange_sky.plans import PlanWarning
from melange_sky.sdk.planning import PlanResult
from melange_sky.sdk.results import as_result
from melange_sky.sdk.services import Changes
from melange_sky.skyserve import Action, ServiceChange
from tests.factories import make_model_plan, make_plan

HOSTILE = "<img src=x onerror=alert(1)>[bold]&\x1b[31m\x00"
ALLOWED = {"div", "pre", "table", "thead", "tbody", "tr", "th", "td"}
DRAWN = {
    "figure",
    "figcaption",
    "strong",
    "br",
    "small",
    "details",
    "summary",
    "svg",
    "g",
    "path",
    "text",
    "title",
    "desc",
    "defs",
    "clippath",
    "pattern",
    "rect",
    "data",
    "bdi",
}
"""What figures add: pictures without a script, an address or an event."""
HARMLESS = {
    "style",
    "role",
    "aria-label",
    "aria-labelledby",
    "scope",
    "class",
    "data-label",
    "value",
    "id",
    "d",
    "x",
    "y",
    "width",
    "height",
    "viewbox",
    "transform",
    "clip-path",
    "patternunits",
}


class Tags(HTMLParser):
    """Collects the tags, their attributes and the text of a document."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


def read(result: Any) -> Tags:
    tags = Tags(result._repr_html_())
    assert tags.tags <= ALLOWED | DRAWN and tags.attributes <= HARMLESS
    assert "\x1b" not in tags.words and "\x00" not in tags.words
    return tags


def test_a_plan_is_tables_and_its_names_stay_text() -> None:
    model = make_model_plan(name=HOSTILE, model=HOSTILE)
    warning = PlanWarning(code="x", message=HOSTILE)
    result = as_result(PlanResult, make_plan(models=(model,), warnings=(warning,)))
    tags = read(result)
    assert "table" in tags.tags
    assert tags.words.count("<img src=x onerror=alert(1)>[bold]&") == 3
    assert "Total $" in tags.words and "one accelerator alone" not in tags.tags
    text = str(result)
    assert "accelerator" in text and "Total $" in text


def test_changes_and_prices_too() -> None:
    change = ServiceChange(
        name=HOSTILE,
        action=Action.START,
        before=0,
        after=1,
        cost_before_usd_per_hour=0.0,
        cost_after_usd_per_hour=1.0,
    )
    tags = read(Changes((change,)))
    assert "<img src=x onerror=alert(1)>" in tags.words and tags.tags == {"pre"}
    book = melange_sky.prices(accelerators="A10G", infra="aws")
    shown = read(book)
    assert "table" in shown.tags and "g5.xlarge" in shown.words
    assert str(book).startswith("ACCELERATOR")


@pytest.mark.parametrize("text", ["[/nothing]", "[link=https://x]y[/link]", ":smile:"])
def test_markup_of_the_terminal_is_no_markup_here(text: str) -> None:
    tags = read(as_result(PlanResult, make_plan(models=(make_model_plan(model=text),))))
    assert text in tags.words
