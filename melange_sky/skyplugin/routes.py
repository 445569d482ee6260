"""The routes under /plugins/api/melange/: all of them read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, JSONResponse, Response

from melange_sky.errors import MelangeError
from melange_sky.skyplugin.drawings import Drawings, figure_document
from melange_sky.skyplugin.fleets import by_name, fleet_documents
from melange_sky.skyplugin.told import FRESH, PREFIX, script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.skyplugin.latest import Answer, Latest
    from melange_sky.skyplugin.observed import Observed
    from melange_sky.skyplugin.plan_folders import FoundPlan, PlanFolders
    from melange_sky.skyplugin.records import RunningService

log = logging.getLogger(__name__)

WAIT_S = 3.0
"""No request waits longer for SkyServe's records than this: older ones are shown, with their age."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What the page shows: plans from folders, services from SkyServe, traffic from gateways, where any are named.

    `problems` are those of the set-up.
    """

    folders: PlanFolders
    records: Latest[tuple[RunningService, ...]]
    gateways: Latest[Observed] | None = None
    problems: tuple[str, ...] = ()
    drawings: Drawings = field(default_factory=Drawings)

    def document(self) -> dict[str, Any]:
        """Return all fleets: see `melange-sky help plugin` for the fields."""
        found, unread = self.folders.plans(_now())
        answer = self.records.get(WAIT_S)
        fleets, problems = [], [*self.problems, *unread]
        for one in found:
            try:
                fleets += self._fleets([one], answer.value)
            except MelangeError as error:  # what a plan's file says must not hide the others
                problems.append(f"{one.file}: {' '.join(str(error).split())[:300]}")
        return {"fleets": fleets, "live": _asked(answer), "problems": problems}

    def _fleets(
        self, found: Sequence[FoundPlan], running: tuple[RunningService, ...] | None
    ) -> list[dict[str, Any]]:
        seen = None if self.gateways is None else self.gateways.get(WAIT_S).value
        return fleet_documents(found, by_name(running), _now(), seen or {})

    def fleet(self, name: str) -> dict[str, Any]:
        """Return one fleet by id or name; raises HTTPException where there is none."""
        answer = self.records.get(WAIT_S)
        (fleet,) = self._fleets([self.find(name)], answer.value)
        return {**fleet, "live": _asked(answer)}

    def figures(self, name: str) -> list[dict[str, Any]]:
        """Return the figures of a plan, words and tables; raises HTTPException where there is none."""
        return [figure_document(one) for one in self.drawings.figures(self.find(name).plan)]

    def drawing(self, name: str, figure: str) -> str:
        """Return one figure as SVG; raises HTTPException where there is none."""
        for one in self.drawings.figures(self.find(name).plan):
            if one.name == figure:
                return one.svg
        raise HTTPException(404, "the plan has no figure of this name")

    def prices(self) -> list[dict[str, Any]]:
        """Return how old the prices of every plan are."""
        found, _ = self.folders.plans(_now())
        fleets = self._fleets(found, None)
        return [{key: fleet[key] for key in ("id", "name", "prices")} for fleet in fleets]

    def find(self, name: str) -> FoundPlan:
        """Return the plan of that id, else the first of that name; raises HTTPException where there is none."""
        found, _ = self.folders.plans(_now())
        named = [one for one in found if name in (one.id, one.plan.name)]
        if not named:
            raise HTTPException(404, "no plan of this id or name in plan_dirs")
        return min(named, key=lambda one: one.id != name)


def _asked(answer: Answer[Any]) -> dict[str, Any]:
    """Return how old what is known of the services is, and why nothing newer is."""
    return {"age_s": answer.age_s, "error": answer.error}


def _now() -> datetime:
    return datetime.now(timezone.utc)


def routes_of(board: Board) -> APIRouter:
    """Return the routes. Plain functions: SkyPilot's server runs them in threads, off its event loop."""
    router = APIRouter(prefix=PREFIX, tags=["melange"])

    router.add_api_route("/fleets.js", script, methods=["GET"])

    @router.get("/fleets")
    def fleets() -> JSONResponse:
        return JSONResponse(board.document(), headers=FRESH)

    @router.get("/fleets/{name}")
    def fleet(name: str) -> JSONResponse:
        return JSONResponse(board.fleet(name), headers=FRESH)

    @router.get("/fleets/{name}/figures")
    def figures(name: str) -> JSONResponse:
        return JSONResponse({"figures": board.figures(name)}, headers=FRESH)

    @router.get("/fleets/{name}/figures/{figure}.svg")
    def drawing(name: str, figure: str) -> Response:
        return Response(board.drawing(name, figure), media_type="image/svg+xml", headers=FRESH)

    @router.get("/prices")
    def prices() -> JSONResponse:
        return JSONResponse({"plans": board.prices()}, headers=FRESH)

    @router.get("/plans/{name}")
    def plan(name: str) -> FileResponse:
        found = board.find(name)
        return FileResponse(found.file, media_type="application/json", headers=FRESH)

    return router
