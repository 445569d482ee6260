"""melange_sky: the cheapest mix of cloud GPUs that serves an LLM within its SLO.

    import melange_sky
    planned = melange_sky.plan("chat.yaml")     # a spec file, or the same as a dict
    print(planned)
    melange_sky.write(planned, "chat-plan")

Everything that the command line does is a function here: plan, verify, load, render, write, table,
simulate, explain, sweep, compare, capacity, prices, profile, apply, status, down, serve, show_model and
their like; see `help(melange_sky.plan)`. Importing the package loads none of it: each is loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.sdk import __all__ as _functions
from melange_sky.version import __version__ as __version__

if TYPE_CHECKING:
    from melange_sky.sdk import (
        apply,
        bound,
        capacity,
        check_prices,
        cluster_offers,
        collect_profile,
        compare,
        diff_plan,
        diff_prices,
        down,
        explain,
        html_report,
        init,
        install_plugin,
        launch_profile,
        learn_profile,
        list_models,
        load,
        plan,
        plugin_status,
        price_snapshots,
        price_terms,
        prices,
        profile,
        profile_status,
        pull_model,
        refresh_prices,
        remove_plugin,
        render,
        reservation,
        schedule,
        serve,
        show_model,
        simulate,
        status,
        sweep,
        table,
        trace_workload,
        verify,
        watch,
        write,
    )

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


def __getattr__(name: str) -> Any:
    if name in _functions:
        from melange_sky import sdk

        return getattr(sdk, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_functions})
