"""The guard on launches: SkyPilot's `admin_policy`, with the user's own policy in front of it.

A guard rail, not a lock: a client may name another policy in its own config.yaml. What the user's policy
refuses stays refused; a fault of the guard itself lets the request pass, with a line in the log.
"""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from functools import cache
from typing import Any

from melange_sky.errors import MelangeError
from melange_sky.skyplugin.guard_settings import GuardSettings, Mode, read_guard, users_policy

GUARDED = frozenset({"launch", "serve.up", "serve.update", "jobs.launch"})
"""SkyPilot's names for `sky launch`, `sky serve up`, `sky serve update` and `sky jobs launch`."""

REPLICA_VARIABLE = "SKYPILOT_SERVE_REPLICA_ID"
"""What SkyServe sets in the task of every replica (`sky/serve/constants.py`)."""


@cache
def guard_class() -> type:
    """Return the class that config.yaml names: made when SkyPilot asks for it, since its base is SkyPilot's."""
    import sky

    logging.getLogger("melange_sky").setLevel(
        logging.WARNING
    )  # a launch prints what its process logs

    class Guard(sky.AdminPolicy):  # type: ignore[misc] # SkyPilot's package has no types
        """Holds planned services to their plans, and every launch to the limits in config.yaml."""

        @classmethod
        def validate_and_mutate(cls, user_request: Any) -> Any:
            """Return the request as the user's own policy leaves it; raises where that or the guard refuses."""
            return judged(user_request)

    return Guard


def judged(request: Any) -> Any:
    """Return a request as the user's own policy leaves it; raises SkyPilot's refusal where one is due."""
    log = _log()
    try:
        limits = read_guard(request.skypilot_config)
    except MelangeError as error:
        log.warning("melange-sky: the guard is off: %s", error)
        limits = GuardSettings(launch="off", policy=users_policy(request.skypilot_config))
    passed = _ask_users_policy(limits.policy, request)
    if not _is_guarded(request):
        return passed
    mode, said, doubted = _judgement(passed.task, limits)
    if mode == "off":
        return passed
    if said is not None and mode == "refuse":
        from sky import exceptions

        raise exceptions.UserRequestRejectedByPolicy(f"melange-sky: {said}.")
    for sentence in (said, doubted):
        if sentence is not None:
            log.warning("melange-sky: %s.", sentence)
    return passed


def _is_guarded(request: Any) -> bool:
    """Return whether the rules apply: on the server alone, where the launch happens, and to no replica of a
    service, which was let through before.
    """
    return (
        request.request_name.value in GUARDED
        and not request.at_client_side
        and REPLICA_VARIABLE not in (request.task.envs or {})
    )


def _judgement(task: Any, limits: GuardSettings) -> tuple[Mode, str | None, str | None]:
    """Return what is done about a task, what speaks against it, and which price nobody knows.

    What is broken in here lets it pass.
    """
    log = _log()
    try:
        from melange_sky.skyplugin.guarded import doubt, mode_of, objection
        from melange_sky.skyplugin.parameters import installed_parameters
        from melange_sky.skyplugin.plan_folders import PlanFolders
        from melange_sky.skyplugin.task_prices import launch_of

        plans = PlanFolders(installed_parameters().plan_dirs).all_plans()
        launch = launch_of(task, plans, limited=limits.max_usd_per_hour is not None)
        mode = mode_of(launch, plans, limits)
        if mode == "off":
            return mode, None, None
        against = objection(launch, plans, limits, datetime.now(timezone.utc))
        return mode, against, doubt(launch, plans, limits)
    except Exception as error:  # noqa: BLE001 - a fault of the guard must not stop a launch
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        log.warning("melange-sky: the guard let this pass unchecked: %s", told)
        return limits.launch, None, None


def _ask_users_policy(policy: str | None, request: Any) -> Any:
    """Return the request after the user's own policy; whatever that raises is raised: it decides."""
    import sky

    if policy is None:
        return sky.MutatedUserRequest(task=request.task, skypilot_config=request.skypilot_config)
    from sky.utils import admin_policy_utils

    found = admin_policy_utils._get_policy_impl(policy)  # SkyPilot has no public way to load one
    return found.apply(request)


def _log() -> Any:
    """Return a logger below SkyPilot's own: its lines reach the user who launches."""
    from sky import sky_logging

    return sky_logging.init_logger("sky.melange_sky.guard")
