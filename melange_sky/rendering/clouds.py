"""What SkyPilot can and cannot do with a cloud, as far as a service file depends on it.

Read in SkyPilot 0.14's cloud classes (`OPEN_PORTS` among `_CLOUD_UNSUPPORTED_FEATURES`), kept as data
so that planning needs no `import sky`; a test compares it with the installed package.
"""

from __future__ import annotations

_NO_OPEN_PORTS = ("hyperbolic", "ibm", "mithril", "slurm", "verda", "vsphere")

VIRTUAL_INSTANCES = frozenset({"kubernetes", "slurm", "ssh"})
"""Clouds whose instance types are made up on the fly from CPUs, memory and accelerators."""


def unservable_clouds() -> dict[str, str]:
    """Return each cloud on which SkyServe cannot run replicas, with the reason.

    >>> unservable_clouds()["ibm"]
    'SkyPilot cannot open ports on ibm, so SkyServe cannot reach replicas there'
    """
    return {
        cloud: f"SkyPilot cannot open ports on {cloud}, so SkyServe cannot reach replicas there"
        for cloud in _NO_OPEN_PORTS
    }


CONTROLLER_USD_PER_HOUR = 0.19
"""List price of the smallest 4-vCPU instance with 8 GB or more: m6i.xlarge on AWS in us-east-1 0.192,
n2-standard-4 on GCP in us-central1 0.194, Standard_D4s_v5 on Azure in eastus 0.192 (2026). SkyPilot asks
for that size by default (`CONTROLLER_RESOURCES` of its serve package)."""


def controller_note() -> str:
    """Return what SkyServe's controller costs beside the replicas, in a sentence."""
    return (
        f"SkyServe's controller, one 4-vCPU instance for all services, adds about "
        f"${CONTROLLER_USD_PER_HOUR:.2f}/h (list price), and nothing where SkyPilot's API server hosts it."
    )
