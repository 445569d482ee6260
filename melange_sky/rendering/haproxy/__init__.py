"""The plan's routing for HAProxy: its configuration, the plan's tables as Lua data, the policy in Lua."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.rendering.haproxy.config import config_text, template
from melange_sky.rendering.haproxy.fleet import ProxyLimits, Replica, ServedModel
from melange_sky.rendering.haproxy.tables import plan_lua

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CONFIG", "ProxyLimits", "Replica", "ServedModel", "render_haproxy"]

CONFIG = "haproxy.cfg"
_PROGRAMS = ("requests.lua", "route.lua")


def render_haproxy(models: Sequence[ServedModel], limits: ProxyLimits) -> dict[str, str]:
    """Return the files, name → text. Raises InputError for what they cannot hold."""
    return {
        CONFIG: config_text(models, limits),
        "plan.lua": plan_lua(models, limits),
        **{name: template(name) for name in _PROGRAMS},
    }
