"""`sky.melange`: what the command line does, from Python.

    import sky
    planned = sky.melange.plan("chat.yaml")
    sky.melange.write(planned, "chat-plan")

SkyPilot finds this module through the entry point `sky.client_sdks`; it works without SkyPilot too, as
`melange_sky` itself. Options have the names and defaults of the command line's flags. Results print as
tables, and show as such in notebooks. Errors are those of `melange_sky.errors`.

`planning` (plan, verify, write and the like), `answering` (explain, sweep, capacity), `replaying`, `reporting`,
`reserving`, `scheduling`, `pricing`, `measuring`, `services`, `serving`, `watching`, `plugin_files` and `starting` hold the functions, `results` makes what they
return print, `arguments` says what they take. A function's module is imported when the function is first used, so that importing this one is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.exports import exported_from

if TYPE_CHECKING:
    from melange_sky.sdk.answering import capacity, explain, sweep
    from melange_sky.sdk.measuring import (
        collect_profile,
        launch_profile,
        learn_profile,
        profile,
        profile_status,
    )
    from melange_sky.sdk.planning import load, plan, render, table, verify, write
    from melange_sky.sdk.plugin_files import install_plugin, plugin_status, remove_plugin
    from melange_sky.sdk.pricing import (
        check_prices,
        cluster_offers,
        diff_plan,
        diff_prices,
        price_snapshots,
        price_terms,
        prices,
        refresh_prices,
    )
    from melange_sky.sdk.replaying import compare, simulate
    from melange_sky.sdk.reporting import html_report
    from melange_sky.sdk.reserving import bound, reservation
    from melange_sky.sdk.scheduling import schedule
    from melange_sky.sdk.services import apply, down, status
    from melange_sky.sdk.serving import serve
    from melange_sky.sdk.starting import (
        init,
        list_models,
        pull_model,
        show_model,
        trace_workload,
    )
    from melange_sky.sdk.watching import watch

_MODULES = {
    "answering": ("capacity", "explain", "sweep"),
    "measuring": (
        "collect_profile",
        "launch_profile",
        "learn_profile",
        "profile",
        "profile_status",
    ),
    "planning": ("load", "plan", "render", "table", "verify", "write"),
    "plugin_files": ("install_plugin", "plugin_status", "remove_plugin"),
    "pricing": (
        "check_prices",
        "cluster_offers",
        "diff_plan",
        "diff_prices",
        "price_snapshots",
        "price_terms",
        "prices",
        "refresh_prices",
    ),
    "reporting": ("html_report",),
    "replaying": ("compare", "simulate"),
    "reserving": ("bound", "reservation"),
    "scheduling": ("schedule",),
    "services": ("apply", "down", "status"),
    "serving": ("serve",),
    "starting": ("init", "list_models", "pull_model", "show_model", "trace_workload"),
    "watching": ("watch",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "apply",
    "bound",
    "capacity",
    "check_prices",
    "cluster_offers",
    "collect_profile",
    "compare",
    "diff_plan",
    "diff_prices",
    "down",
    "explain",
    "html_report",
    "init",
    "install_plugin",
    "launch_profile",
    "learn_profile",
    "list_models",
    "load",
    "plan",
    "plugin_status",
    "price_snapshots",
    "price_terms",
    "prices",
    "profile",
    "profile_status",
    "pull_model",
    "refresh_prices",
    "remove_plugin",
    "render",
    "reservation",
    "schedule",
    "serve",
    "show_model",
    "simulate",
    "status",
    "sweep",
    "table",
    "trace_workload",
    "verify",
    "watch",
    "write",
]

__getattr__ = exported_from(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
