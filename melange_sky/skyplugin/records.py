"""What SkyServe's own tables say runs; read, never written. The only module here that knows `sky.serve`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from melange_sky.skyserve.client import live_service

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from melange_sky.skyserve import LiveService


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """A service as SkyServe keeps it; `instances` is what each replica runs on, by its id, where it has a node."""

    service: LiveService
    instances: dict[int, str]


def running_services() -> tuple[RunningService, ...]:
    """Return all services, pools aside.

    A consolidated controller keeps its tables beside the server's own. One on a cluster of its own is asked
    as `sky serve status` asks it, over ssh: that may take many seconds.
    """
    from sky.serve import serve_utils

    consolidated = serve_utils.is_consolidation_mode()
    records = _kept_records() if consolidated else _asked_records()
    return tuple(
        RunningService(service=live_service(record), instances=_instances(record))
        for record in records
    )


def _kept_records() -> Iterable[Mapping[str, Any]]:
    from sky import global_user_state
    from sky.serve import serve_state

    for record in serve_state.get_services():
        if record["pool"]:
            continue
        replicas = serve_state.get_replica_infos(record["name"])
        clusters = global_user_state.get_clusters_from_names([one.cluster_name for one in replicas])
        scheme = "https" if record["tls_encrypted"] else "http"
        port = record["load_balancer_port"]
        yield {
            **record,
            "endpoint": None if port is None else f"{scheme}://localhost:{port}",
            "replica_info": [_replica(one, clusters.get(one.cluster_name)) for one in replicas],
        }


def _replica(info: Any, cluster: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "replica_id": info.replica_id,
        "status": info.status,
        "version": info.version,
        "launched_at": None if cluster is None else cluster["launched_at"],
        "handle": None if cluster is None else cluster["handle"],
    }


def _asked_records() -> list[Mapping[str, Any]]:
    from sky import exceptions
    from sky.serve.server import core

    try:
        records: list[Mapping[str, Any]] = core.status(None)
    except exceptions.ClusterNotUpError:  # no service has ever been brought up, or all are down
        return []
    return records


def _instances(record: Mapping[str, Any]) -> dict[int, str]:
    found = {}
    for replica in record["replica_info"]:
        launched = getattr(replica.get("handle"), "launched_resources", None)
        if launched is None:
            continue
        gpus = launched.accelerators or {}
        named = ", ".join(f"{name}:{count:g}" for name, count in gpus.items())
        found[int(replica["replica_id"])] = named or str(launched.instance_type)
    return found
