"""axe-core over a page in a real browser: what it calls serious or critical."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cli.runner import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

INSTALL = ROOT / "tests/stack/install_browser.sh"
AXE = ROOT / "build/browser/node_modules/axe-core/axe.min.js"
"""What INSTALL puts there, besides Chromium."""


def serious_findings(page: Page, within: str = "html") -> list[tuple[str, str]]:
    """Return the rule and the beginning of the element of each; `within` selects what is looked at."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("within => axe.run(within)", within)
    assert found["passes"], "axe-core has looked at nothing"
    return [
        (one["id"], one["nodes"][0]["html"][:200])
        for one in found["violations"]
        if one["impact"] in {"serious", "critical"}
    ]
