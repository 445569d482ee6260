"""A small SkyPilot in memory: as much of its API as `apply`, `status`, `down` and profiling jobs call."""

from __future__ import annotations

import copy
import enum
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml


class Status(enum.Enum):
    """What SkyServe and the job queue call a state."""

    READY = "READY"
    SUCCEEDED = "SUCCEEDED"

    def is_terminal(self) -> bool:
        return self is Status.SUCCEEDED


class Task:
    """Keeps the document that it was made of."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    @classmethod
    def from_yaml_config(cls, config: dict[str, Any]) -> Task:
        return cls(copy.deepcopy(config))

    def to_yaml_config(self) -> dict[str, Any]:
        config = copy.deepcopy(self.config)
        service = config["service"]
        service.setdefault("replica_policy", {"min_replicas": service.pop("replicas", 1)})
        return config


class StandIn(ModuleType):
    """`import sky` for tests. What it was asked for stands in `calls`, what runs in `live`."""

    def __init__(self) -> None:
        super().__init__("sky")
        self.calls: list[str] = []
        self.live: dict[str, Task] = {}
        self.queue_records: list[dict[str, Any]] = []
        self.logs: dict[int, str] = {}
        self.Task = Task
        self.exceptions = SimpleNamespace(
            ApiServerConnectionError=type("ApiServerConnectionError", (RuntimeError,), {}),
            ClusterNotUpError=type("ClusterNotUpError", (Exception,), {}),
            ResourcesUnavailableError=type("ResourcesUnavailableError", (Exception,), {}),
        )
        self.serve = SimpleNamespace(
            status=self._status,
            up=self._up,
            update=self._update,
            down=self._down,
            UpdateMode=SimpleNamespace(ROLLING="rolling"),
        )
        self.jobs = SimpleNamespace(
            launch=self._launch, queue_v2=self._queue, tail_logs=self._tail, cancel=self._cancel
        )

    def api_info(self) -> SimpleNamespace:
        return SimpleNamespace(user=SimpleNamespace(id="me"))

    def get(self, request: Any) -> Any:
        return request

    def _status(self, names: Any) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "status": Status.READY,
                "version": 1,
                "endpoint": f"{name}.example:8000",
                "yaml_content": yaml.safe_dump(task.to_yaml_config()),
                "replica_info": [
                    {
                        "replica_id": n,
                        "status": Status.READY,
                        "version": 1,
                        "endpoint": f"http://10.0.0.{n}:8000",
                        "launched_at": 100 + n,
                    }
                    for n in range(
                        int(task.to_yaml_config()["service"]["replica_policy"]["min_replicas"])
                    )
                ],
            }
            for name, task in self.live.items()
        ]

    def _up(self, task: Task, name: str) -> None:
        self.calls.append(f"up {name}")
        self.live[name] = task

    def _update(self, task: Task, name: str, mode: str) -> None:
        self.calls.append(f"update {name} {mode}")
        self.live[name] = task

    def _down(self, name: str) -> None:
        self.calls.append(f"down {name}")
        del self.live[name]

    def _launch(self, task: Task, *, name: str) -> None:
        self.calls.append(f"launch {name}")
        number = len(self.queue_records) + 1
        self.queue_records.append(
            {
                "job_id": number,
                "job_name": name,
                "status": Status.SUCCEEDED,
                "failure_reason": None,
            }
        )

    def _queue(self, *, refresh: bool) -> tuple[list[dict[str, Any]]]:
        return (self.queue_records,)

    def _tail(self, *, job_id: int, follow: bool, output_stream: Any) -> None:
        output_stream.write(self.logs.get(job_id, ""))

    def _cancel(self, *, name: str) -> None:
        self.calls.append(f"cancel {name}")
