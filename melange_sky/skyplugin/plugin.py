"""The plugin of SkyPilot's API server. Whatever goes wrong in it, the server starts and serves.

So nothing else of the package is imported but where a fault is caught.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from melange_sky.version import __version__

log = logging.getLogger(__name__)

PREFIX = "/plugins/api/melange"
FRESH_S = 5.0
"""SkyServe's tables are read at most this often, by whoever looks."""


@cache
def plugin_class() -> type:
    """Return the class that plugins.yaml names: made when SkyPilot asks for it, since its base is SkyPilot's."""
    from sky.server import plugins

    class Plugin(plugins.BasePlugin):  # type: ignore[misc] # SkyPilot's package has no types
        """Adds the Fleets page and its routes to the web process, and gauges to the main one."""

        load_contexts = frozenset({plugins.PluginContext.MAIN, plugins.PluginContext.UVICORN})
        name = "melange"
        version = __version__
        js_extension_path = f"{PREFIX}/fleets.js"

        def __init__(self, **given: Any) -> None:
            self._given = given

        @property
        def viewer_allowlist(self) -> list[Any]:
            """Return what viewers may do: read all of it. There is nothing to write."""
            return [plugins.RBACRule(path=f"{PREFIX}/*", method="GET")]

        def install(self, extension_context: Any) -> None:
            """Install; a fault is logged and told on the page, and never reaches the server."""
            is_main = extension_context.context is plugins.PluginContext.MAIN
            install(self._given, extension_context.app, is_main=is_main)

    return Plugin


def install(given: Mapping[str, Any], app: Any | None, *, is_main: bool) -> None:
    """Install in one process of the server: gauges in the main one, routes where there is an app; never raises."""
    try:
        _install(given, app, is_main=is_main)
    except Exception as error:
        log.exception("melange-sky: the plugin could not start; the API server goes on without it")
        if app is not None:
            told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            _tell(app, f"the plugin could not start: {told}")


def _install(given: Mapping[str, Any], app: Any | None, *, is_main: bool) -> None:
    _register_keys()
    board = _board(given, serves_page=app is not None)
    if is_main:
        from sky.server import metrics

        from melange_sky.skyplugin.gauges import FleetGauges

        metrics.register_plugin_collector(FleetGauges(board))
    if app is not None:
        from melange_sky.skyplugin.routes import routes_of

        app.include_router(routes_of(board))


def _tell(app: Any, problem: str) -> None:
    try:
        from melange_sky.skyplugin.told import routes_that_tell

        app.include_router(routes_that_tell(problem))
    except Exception:
        log.exception("melange-sky: the page that tells of the fault could not be added either")


def _board(given: Mapping[str, Any], *, serves_page: bool) -> Any:
    from melange_sky.skyplugin.latest import Latest
    from melange_sky.skyplugin.parameters import read_parameters
    from melange_sky.skyplugin.plan_folders import PlanFolders
    from melange_sky.skyplugin.records import running_services
    from melange_sky.skyplugin.routes import Board

    parameters = read_parameters(given)
    folders = PlanFolders(parameters.plan_dirs)
    return Board(
        folders=folders,
        records=Latest(running_services, fresh_s=FRESH_S),
        gateways=_gateways(parameters.gateways, folders, ask_on=serves_page),
        problems=parameters.problems,
    )


def _gateways(urls: Mapping[str, tuple[str, ...]], folders: Any, *, ask_on: bool) -> Any:
    """Return the fleets' gateways, None where none is named.

    With `ask_on` they are asked every minute from now on, by a thread, so that a page has figures at once: not in
    the main process, which makes others of itself and is asked by each scrape of its metrics.
    """
    if not urls:
        return None
    from datetime import datetime, timezone

    from melange_sky.skyplugin.latest import Latest
    from melange_sky.skyplugin.observed import OBSERVE_S, Gateways

    source = Gateways(urls=urls, found=lambda: folders.plans(datetime.now(timezone.utc))[0])
    latest = Latest(source.look, fresh_s=OBSERVE_S)

    if ask_on:
        _ask_every(latest, OBSERVE_S)
    return latest


def _ask_every(latest: Any, seconds: float) -> None:
    import threading
    import time

    def run() -> None:
        while True:
            latest.get(0)
            time.sleep(seconds)

    threading.Thread(target=run, name="melange-gateways", daemon=True).start()


def _register_keys() -> None:
    """Let SkyPilot check `plugins: melange:` of config.yaml. The main process may load plugins twice."""
    from sky.utils import schemas

    from melange_sky.skyplugin.guard_settings import SCHEMA

    if "melange" not in schemas._extra_plugin_properties:
        schemas.register_plugin_property("melange", SCHEMA)
