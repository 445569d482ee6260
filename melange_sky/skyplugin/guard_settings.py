"""The guard's keys in SkyPilot's config.yaml: `plugins: melange: guard:`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from melange_sky.errors import InputError

GUARD_CLASS = "melange_sky.skyplugin.Guard"

Mode = Literal["off", "warn", "refuse"]
MODES: tuple[Mode, ...] = ("off", "warn", "refuse")
"""The strictest last."""

_GUARD = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "launch": {"enum": [*MODES, False]},  # YAML reads a bare `off` as false
        "max_price_age_days": {"type": "number", "exclusiveMinimum": 0},
        "max_usd_per_hour": {"type": "number", "exclusiveMinimum": 0},
        "policy": {"type": "string"},
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"guard": _GUARD},
}
"""As JSON Schema, for SkyPilot, which checks its config.yaml by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """What the guard does at a launch, and within which limits; None for no limit.

    `policy` is the user's own policy, a class or an address as SkyPilot's `admin_policy` takes them: it is
    asked after the guard.
    """

    launch: Mode = "warn"
    max_price_age_days: float | None = None
    max_usd_per_hour: float | None = None
    policy: str | None = None


def read_guard(config: Mapping[str, Any]) -> GuardSettings:
    """Return the keys of a whole config.yaml; raises InputError for one that cannot be read."""
    given = _mapping(_mapping(config.get("plugins")).get("melange")).get("guard")
    guard = _mapping(given)
    launch = guard.get("launch", "warn")
    if launch is False:  # YAML 1.1 reads a bare `off` so
        launch = "off"
    if launch not in MODES:
        raise InputError(f"plugins.melange.guard.launch: '{launch}' is none of {', '.join(MODES)}")
    return GuardSettings(
        launch=launch,
        max_price_age_days=_number(guard, "max_price_age_days"),
        max_usd_per_hour=_number(guard, "max_usd_per_hour"),
        policy=users_policy(config),
    )


def users_policy(config: Mapping[str, Any]) -> str | None:
    """Return the user's own policy, whatever else of the keys may be wrong: it is not the guard's to drop."""
    melange = _mapping(_mapping(config.get("plugins")).get("melange"))
    policy = _mapping(melange.get("guard")).get("policy")
    return None if policy in (None, GUARD_CLASS) else str(policy)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(guard: Mapping[str, Any], key: str) -> float | None:
    value = guard.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise InputError(f"plugins.melange.guard.{key}: '{value}' is not a number above 0")
    return float(value)
