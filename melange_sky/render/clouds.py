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
