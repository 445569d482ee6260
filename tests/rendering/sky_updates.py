"""Run by a test in a process of its own: what SkyPilot keeps of services, and which updates keep replicas.

stdin: JSON {"files": {name: YAML text}, "before": {name: stored text}}. stdout: JSON {"stored": {name: text},
"kept": {name: whether the replica of `before` survives an update to the file}, "schema": {…}}. SkyPilot's own
controller code compares; only where it keeps its rows is replaced, by a dictionary.
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any


def stored(text: str) -> str:
    """Return what SkyServe keeps of a file that is brought up (`serve.server.impl.up` dumps the task so).

    One that holds the text to be kept beside it is what a client hands in.
    """
    import sky
    from sky.utils import yaml_utils

    config = yaml_utils.safe_load(text)
    is_handed_in = "_user_specified_yaml" in config
    task = sky.Task.from_yaml_config(config) if is_handed_in else sky.Task.from_yaml_str(text)
    return str(yaml_utils.dump_yaml_str(task.to_yaml_config()))


def keeps(before: str, after: str) -> bool:
    """Return whether SkyServe's controller takes the replica of one version over into the next."""
    from sky.serve import replica_managers, serve_state, serve_utils

    versions = {1: before, 2: after}
    replica = SimpleNamespace(version=1, is_terminal=False, replica_id=1)
    serve_state.get_yaml_content = lambda name, version: versions[version]
    serve_state.get_replica_infos = lambda name: [replica]
    serve_state.add_or_update_replica = lambda *args: None
    manager: Any = SimpleNamespace(latest_version=1, _service_name="sample")
    update = replica_managers.SkyPilotReplicaManager.update_version
    update(manager, 2, None, serve_utils.UpdateMode.ROLLING)
    return bool(replica.version == 2)


def schema() -> dict[str, list[str]]:
    """Return the keys that SkyPilot's schemas take."""
    from sky.utils import schemas

    return {
        "task": sorted(schemas.get_task_schema()["properties"]),
        "resources": sorted(schemas.get_resources_schema()["properties"]),
        "service": sorted(schemas.get_service_schema()["properties"]),
    }


def main() -> None:
    request = json.load(sys.stdin)
    kept_texts = {name: stored(text) for name, text in request["files"].items()}
    kept = {name: keeps(old, kept_texts[name]) for name, old in request["before"].items()}
    print("ANSWER " + json.dumps({"stored": kept_texts, "kept": kept, "schema": schema()}))


if __name__ == "__main__":
    main()
