"""The plugin of SkyPilot's API server. Whatever goes wrong in it, the server starts and serves."""

from __future__ import annotations

import logging
from typing import Any

from sky.server import plugins

from melange_sky.skyplugin.guard_settings import SCHEMA
from melange_sky.skyplugin.parameters import Parameters, read_parameters
from melange_sky.version import __version__

log = logging.getLogger(__name__)

FRESH_S = 5.0
"""SkyServe's tables are read at most this often, by whoever looks."""

_PREFIX = "/plugins/api/melange"


class Plugin(plugins.BasePlugin):  # type: ignore[misc] # SkyPilot's package has no types
    """Adds the Fleets page and its routes to the web process, and gauges to the main one."""

    load_contexts = frozenset({plugins.PluginContext.MAIN, plugins.PluginContext.UVICORN})
    name = "melange"
    version = __version__
    js_extension_path = f"{_PREFIX}/fleets.js"

    def __init__(self, **given: Any) -> None:
        self._parameters: Parameters = read_parameters(given)

    @property
    def viewer_allowlist(self) -> list[Any]:
        """Return what viewers may do: read all of it. There is nothing to write."""
        return [plugins.RBACRule(path=f"{_PREFIX}/*", method="GET")]

    def install(self, extension_context: Any) -> None:
        """Install; a fault is logged and told on the page, and never reaches the server."""
        problem = None
        try:
            self._install(extension_context)
        except Exception as error:
            log.exception(
                "melange-sky: the plugin could not start; the API server goes on without it"
            )
            problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if problem is not None and extension_context.app is not None:
            self._tell(extension_context, f"the plugin could not start: {problem}")

    def _install(self, context: Any) -> None:
        _register_keys()
        board = _board(self._parameters)
        if context.context is plugins.PluginContext.MAIN:
            from sky.server import metrics

            from melange_sky.skyplugin.gauges import FleetGauges

            metrics.register_plugin_collector(FleetGauges(board))
        if context.app is not None:
            from melange_sky.skyplugin.routes import routes_of

            context.app.include_router(routes_of(board))

    @staticmethod
    def _tell(context: Any, problem: str) -> None:
        try:
            from melange_sky.skyplugin.routes import routes_that_tell

            context.app.include_router(routes_that_tell(problem))
        except Exception:
            log.exception("melange-sky: the page that tells of the fault could not be added either")


def _board(parameters: Parameters) -> Any:
    from melange_sky.skyplugin.latest import Latest
    from melange_sky.skyplugin.plan_folders import PlanFolders
    from melange_sky.skyplugin.records import running_services
    from melange_sky.skyplugin.routes import Board

    return Board(
        folders=PlanFolders(parameters.plan_dirs),
        records=Latest(running_services, fresh_s=FRESH_S),
        problems=parameters.problems,
    )


def _register_keys() -> None:
    """Let SkyPilot check `plugins: melange:` of config.yaml. The main process may load plugins twice."""
    from sky.utils import schemas

    if "melange" not in getattr(schemas, "_extra_plugin_properties", {}):
        schemas.register_plugin_property("melange", SCHEMA)
