"""The Fleets page of the bed's dashboard, beside what a plan says and what runs."""

from __future__ import annotations

from typing import Any

from tests.sky.bed import API_PORT
from tests.sky.browser import visiting

PAGE, READY = "/dashboard/plugins/melange", "#melange-fleets [data-loaded]"


def check_fleets_page(planned: dict[str, Any]) -> None:
    """Look at the page of a plan of which every replica is ready: its numbers, and nothing from elsewhere."""
    host = f"127.0.0.1:{API_PORT}"
    with visiting(f"http://{host}{PAGE}", READY) as visit:
        fleet = visit.figures(f"[data-fleet='{planned['fleet_id']}'] > .sums")
        rows = {
            row["option"]: visit.figures(f"[data-option='{row['option']}']")
            for row in planned["allocations"]
        }
        text = visit.page.locator("#melange-fleets").inner_text()
    assert visit.errors == [] and visit.hosts == {host}
    cost = f"${planned['cost_usd_per_hour']:.3f}/h"
    assert fleet["fleet-planned-usd"] == cost
    assert fleet["fleet-live-usd"] == f"{cost} at the plan’s prices"
    for row in planned["allocations"]:
        shown = rows[row["option"]]
        assert shown["planned"] == str(row["replicas"])
        assert shown["live"] == f"{row['replicas']} ready", text
        assert shown["live-usd"] == shown["planned-usd"]
        assert shown["price"].startswith(f"${row['price_usd_per_hour']:.3f} ")
