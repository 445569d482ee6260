"""The routes of a plugin that could not start: the page, and why there is nothing on it.

Apart from `routes`, and knowing nothing of plans, so that what broke those does not break this.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse

PREFIX = "/plugins/api/melange"
SCRIPT = Path(__file__).with_name("fleets.js")
FRESH = {"Cache-Control": "no-store"}


def routes_that_tell(problem: str) -> APIRouter:
    """Return the page's script and a document without fleets that says what is wrong."""
    router = APIRouter(prefix=PREFIX, tags=["melange"])
    router.add_api_route("/fleets.js", script, methods=["GET"])

    @router.get("/fleets")
    def fleets() -> JSONResponse:
        told = {"fleets": [], "live": {"age_s": None, "error": None}, "problems": [problem]}
        return JSONResponse(told, headers=FRESH)

    return router


def script() -> FileResponse:
    """Return the Fleets page."""
    return FileResponse(SCRIPT, media_type="text/javascript", headers={"Cache-Control": "no-cache"})
