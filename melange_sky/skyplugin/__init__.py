"""Inside SkyPilot's API server: the Fleets page of its dashboard, gauges, and a guard on launches.

`Plugin` is named in `plugins.yaml`, `Guard` as `admin_policy` in `config.yaml`; `melange-sky plugin install`
writes both. They are the only names that SkyPilot asks for, and each is imported when it is asked for, so
that this package costs a process that uses neither nothing.

`parameters` reads what plugins.yaml gives, `plan_folders` finds and reads plans, `records` asks SkyServe's own
tables, `latest` bounds how long that may take, `fleets` puts plans and records together (pure), `drawings` has the
figures, `routes` and
`gauges` show it, `told` says why there is nothing to show. `guard` is the policy, `guarded` its rules (pure), `task_prices` what a task costs.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MAKERS = {"Plugin": ("plugin", "plugin_class"), "Guard": ("guard", "guard_class")}


def __getattr__(name: str) -> Any:
    if name not in _MAKERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, maker = _MAKERS[name]
    return getattr(import_module(f"{__name__}.{module}"), maker)()


def __dir__() -> list[str]:
    return sorted({*globals(), *_MAKERS})
