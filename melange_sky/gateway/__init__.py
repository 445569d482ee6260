"""One OpenAI-compatible endpoint over the planned mix.

`run` is its life, `server` what there is to call, `client_connection` and `replica_connection` the wire,
`proxy` a request's way, `relay` a stream's, `dispatch` the choice of a replica (by the core's `routing`),
`pool` plan and backends as they are now, `service` one model of them. It keeps nothing that a second
gateway would need. `workers` runs several on one port, `siblings` is what these know of each other.
"""

from melange_sky.gateway.affinity import Affinity
from melange_sky.gateway.listener import Sharing
from melange_sky.gateway.run import Credentials, Gateway, Listen, run_gateway
from melange_sky.gateway.server import tls_context
from melange_sky.gateway.settings import Keys, ObservedSink, Secret, Settings, Sources
from melange_sky.gateway.workers import Crew, Place, run_workers

__all__ = [
    "Affinity",
    "Credentials",
    "Crew",
    "Gateway",
    "Keys",
    "Listen",
    "ObservedSink",
    "Place",
    "Secret",
    "Settings",
    "Sharing",
    "Sources",
    "run_gateway",
    "run_workers",
    "tls_context",
]
