"""A real Chromium, Debian's, over a page of SkyPilot's dashboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.accessibility import AXE, INSTALL, serious_findings
from tests.sky.bed import _must

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

_SEEN_BEFORE = "for (const key of ['first-visit', 'tour-completed']) localStorage.setItem(`skypilot-dashboard-${key}`, 'true')"
"""Keeps the tour away that SkyPilot shows in a fresh browser."""


@dataclass
class Visit:
    """A page, what its console said, and which hosts were asked for anything."""

    page: Page
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def unusable(self) -> list[tuple[str, str]]:
        """Return what axe-core calls serious in our page, SkyPilot's own bars aside."""
        return serious_findings(self.page, "#melange-fleets")

    def figures(self, place: str) -> dict[str, str]:
        """Return the texts of the named figures within one element."""
        found = self.page.locator(f"{place} [data-figure]")
        names = found.evaluate_all("all => all.map(one => one.dataset.figure)")
        texts = [" ".join(text.split()) for text in found.all_inner_texts()]
        return dict(zip(names, texts, strict=True))


def chromium() -> str:
    """Return Debian's Chromium, installed with axe-core where one of them is missing."""
    path = shutil.which("chromium")
    if path is None or not AXE.exists():
        _must(str(INSTALL))
        path = shutil.which("chromium")
    assert path is not None
    return path


@contextmanager
def visiting(url: str, ready: str, width: int = 1300, **headers: str) -> Iterator[Visit]:
    """Yield the page once what `ready` selects is there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                extra_http_headers={k.replace("_", "-"): v for k, v in headers.items()},
            )
            context.add_init_script(_SEEN_BEFORE)
            visit = Visit(context.new_page())

            def said(message: ConsoleMessage) -> None:
                # SkyPilot's dashboard has no /favicon.ico, for which every browser asks by itself
                ours = not message.location["url"].endswith("/favicon.ico")
                if message.type == "error" and ours:
                    visit.errors.append(message.text)

            visit.page.on("console", said)
            visit.page.on("pageerror", lambda error: visit.errors.append(str(error)))
            visit.page.on("request", lambda asked: visit.hosts.add(urlsplit(asked.url).netloc))
            visit.page.goto(url, timeout=60_000)
            visit.page.wait_for_selector(ready, timeout=60_000)
            yield visit
        finally:
            browser.close()
