"""For a test's API server alone: clouds that are there in name, and what SkyPilot asks of policies and validators.

Copied beside that server as the module `stand_ins`; named in its plugins.yaml and config.yaml.
"""

import json
import os
import time
from pathlib import Path

import sky
from sky.server import plugins

REPLICA = "SKYPILOT_SERVE_REPLICA_ID"


def note(kind, **what):
    """Append one line to the file that the test reads; short lines from several processes stay whole."""
    line = json.dumps({"kind": kind, "time": time.time(), "pid": os.getpid(), **what})
    with Path(os.environ["STAND_INS_LOG"]).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


class Clouds(plugins.BasePlugin):
    """Makes AWS and GCP count as enabled, so that requests come to where a real cloud would be called."""

    def install(self, extension_context):
        from sky import check
        from sky import task as task_lib
        from sky.utils import registry

        clouds = [registry.CLOUD_REGISTRY.from_str(name) for name in ("aws", "gcp")]
        check.get_cached_enabled_clouds_or_refresh = lambda *args, **kwargs: list(clouds)
        if extension_context.context is plugins.PluginContext.EXECUTOR:
            task_lib.register_task_validator(_seen)


def _seen(task):
    replica = (task.envs or {}).get(REPLICA)
    note(
        "validator", task=task.name, replica=replica, mark=(task.metadata or {}).get("melange_sky")
    )


class Policy(sky.AdminPolicy):
    """A policy of the user's own: notes what it is asked, and refuses one name."""

    @classmethod
    def validate_and_mutate(cls, user_request):
        options = user_request.request_options
        note(
            "policy",
            name=user_request.request_name.value,
            at_client=user_request.at_client_side,
            cluster=None if options is None else options.cluster_name,
            replica=(user_request.task.envs or {}).get(REPLICA),
        )
        if user_request.task.name == "forbidden":
            raise RuntimeError("the boss says no")
        return sky.MutatedUserRequest(
            task=user_request.task, skypilot_config=user_request.skypilot_config
        )
