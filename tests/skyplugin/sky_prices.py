"""Run by a test in a process of its own, whose HOME holds made-up price files: what the guard makes of real tasks.

stdin: JSON {"plan": plan.json's text, "tasks": {name: keys of sky.Resources}}. stdout: JSON {name: answer}.
Two clouds and one Kubernetes context count as there; whatever would ask the context answers at once.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

# SkyPilot is imported where it is used: collecting this file must not import it.


def stand_in() -> None:
    """Let SkyPilot find AWS, GCP and a cluster without accounts or a network."""
    import sky.check
    from sky.clouds import kubernetes
    from sky.utils import registry

    clouds = [registry.CLOUD_REGISTRY.from_str(name) for name in ("aws", "gcp", "kubernetes")]
    sky.check.get_cached_enabled_clouds_or_refresh = lambda *args, **kwargs: list(clouds)
    cluster: Any = kubernetes.Kubernetes
    cluster.existing_allowed_contexts = classmethod(lambda cls, *args, **kwargs: ["ours"])
    cluster.check_features_are_supported = classmethod(lambda cls, *args, **kwargs: None)
    cluster._unsupported_features_for_resources = classmethod(lambda cls, *args, **kwargs: {})
    kubernetes.kubernetes_utils.get_all_kube_context_names = lambda: ["ours"]
    kubernetes.kubernetes_utils.check_instance_fits = lambda *args, **kwargs: (True, None)


def optimized(task: Any) -> float | str:
    """Return the hourly cost of what SkyPilot's own optimizer takes, else why it takes nothing."""
    import sky
    from sky import optimizer

    try:
        with sky.Dag() as dag:
            dag.add(task)
        optimizer.Optimizer.optimize(dag, quiet=True)
    except Exception as error:  # noqa: BLE001 - told to the test
        return type(error).__name__
    return float(task.best_resources.get_cost(3600))


def answer(keys: dict[str, Any], plans: tuple[Any, ...]) -> dict[str, Any]:
    import sky

    from melange_sky.skyplugin.guard_settings import GuardSettings
    from melange_sky.skyplugin.guarded import doubt
    from melange_sky.skyplugin.task_prices import launch_of

    def task() -> Any:
        one = sky.Task(name="train", run="true")
        one.set_resources(sky.Resources(**keys))
        return one

    launch = launch_of(task(), plans, limited=True)
    (choice,) = launch.choices
    return {
        "price": choice.usd_per_hour,
        "source": choice.source,
        "offered": choice.is_offered,
        "doubt": doubt(launch, plans, GuardSettings(max_usd_per_hour=4)),
        "sky": optimized(task()),
        "guard": guarded(task()),
    }


def guarded(task: Any) -> str | None:
    """Return with which words the policy refuses a task above $4/h, None where it passes."""
    import sky
    from sky.server.requests.request_names import AdminPolicyRequestName
    from sky.utils.config_utils import Config

    from melange_sky.skyplugin import Guard

    keys = {"plugins": {"melange": {"guard": {"launch": "refuse", "max_usd_per_hour": 4}}}}
    request = sky.UserRequest(task, Config(keys), AdminPolicyRequestName.CLUSTER_LAUNCH)
    try:
        Guard.validate_and_mutate(request)
    except Exception as error:  # noqa: BLE001 - told to the test
        return str(error)
    return None


def main() -> None:
    from melange_sky.planfile import load_plan

    request = json.load(sys.stdin)
    stand_in()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        file.write_text(request["plan"])
        plans = (load_plan(file),)
    found = {name: answer(keys, plans) for name, keys in request["tasks"].items()}
    print("ANSWER " + json.dumps(found))


if __name__ == "__main__":
    main()
