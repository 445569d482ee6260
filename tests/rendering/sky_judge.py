"""Run by a test in a process of its own, whose HOME holds made-up price files: what SkyPilot makes of YAMLs.

stdin: JSON {file name: YAML text}. stdout: JSON {file name: verdict}.
"""

from __future__ import annotations

import json
import sys
from typing import Any

# SkyPilot is imported where it is used: collecting this file must not import it.


def enable(names: list[str]) -> None:
    """Take clouds as enabled: this machine has no accounts, and none is used."""
    import sky.check
    from sky.utils import registry

    clouds = [registry.CLOUD_REGISTRY.from_str(name) for name in names]
    sky.check.get_cached_enabled_clouds_or_refresh = lambda *args, **kwargs: list(clouds)


def judge(text: str) -> dict[str, Any]:
    """Return what SkyPilot's parsers and optimizer make of one file."""
    import sky
    from sky import optimizer
    from sky.serve import serve_utils, service_spec

    spec = service_spec.SkyServiceSpec.from_yaml_str(text)
    task = sky.Task.from_yaml_str(text)
    task.validate()
    serve_utils.validate_service_task(task, pool=False)
    with sky.Dag() as dag:
        dag.add(task)
    optimizer.Optimizer.optimize(dag, quiet=True)
    best = task.best_resources
    assert best is not None and task.service is not None
    hourly = best.get_cost(3600)
    config = task.to_yaml_config()
    return {
        "name": task.name,
        "num_nodes": task.num_nodes,
        "cloud": str(best.cloud).lower(),
        "region": best.region,
        "instance_type": best.instance_type,
        "accelerators": best.accelerators,
        "use_spot": best.use_spot,
        "price_usd_per_hour": task.num_nodes * hourly,
        "disk_size": best.disk_size,
        "resources_ports": best.ports,
        "service_ports": task.service.ports,
        "min_replicas": spec.min_replicas,
        "max_replicas": spec.max_replicas,
        "fallback": spec.use_ondemand_fallback,
        "readiness_path": spec.readiness_path,
        "initial_delay_s": spec.initial_delay_seconds,
        "stream_timeout_s": spec.lb_stream_timeout_seconds,
        "policy": spec.load_balancing_policy,
        "run": task.run,
        "setup": task.setup,
        "envs": task.envs,
        "managed_secrets": [ref.name for ref in task._managed_secret_refs],
        "metadata": task.metadata,
        "file_mounts": config.get("file_mounts"),
    }


def closed_clouds() -> list[str]:
    """Return the clouds that SkyPilot itself says cannot open ports."""
    import sky
    from sky import clouds
    from sky.utils import registry

    feature = clouds.CloudImplementationFeatures.OPEN_PORTS
    closed = []
    for name, cloud in registry.CLOUD_REGISTRY.items():
        listed = getattr(cloud, "_CLOUD_UNSUPPORTED_FEATURES", None)
        if listed is None:  # a cloud that works them out; asking the others may probe a cluster
            listed = cloud._unsupported_features_for_resources(sky.Resources())
        if feature in listed:
            closed.append(name)
    return sorted(closed)


def main() -> None:
    request = json.load(sys.stdin)
    enable(request["clouds"])
    verdicts = {name: judge(text) for name, text in request["files"].items()}
    print("ANSWER " + json.dumps({"files": verdicts, "closed": closed_clouds()}))


if __name__ == "__main__":
    main()
