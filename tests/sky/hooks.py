"""For the bed's SkyPilot alone: what keeps stock SkyPilot 0.14 from serving on a Slurm of one machine.

Copied into the bed's own virtual environment and imported by each of its Python processes (client, API
server, serve and jobs controllers). The installed SkyPilot is not touched. Three things change:

* Slurm counts as a cloud that can open ports: the bed's nodes can reach each other's.
* A replica's endpoint is its own node's address, not the login host's.
* The check for internet access is passed: the bed is offline on purpose.
"""

import importlib.abc
import importlib.machinery
import sys
import time

_ADDRESS_LIFETIME_S = 30
_addresses = {}


def _let_slurm_open_ports(module):
    feature = sys.modules["sky.clouds.cloud"].CloudImplementationFeatures.OPEN_PORTS
    module.Slurm._CLOUD_UNSUPPORTED_FEATURES.pop(feature, None)


def _answer_with_node_address(module):
    def query_ports(cluster_name_on_cloud, ports, head_ip=None, provider_config=None):
        from sky.provision import common
        from sky.utils import resources_utils

        address = _address(module, cluster_name_on_cloud, provider_config)
        if address is None:
            return {}
        numbers = resources_utils.port_ranges_to_set(ports)
        return {n: [common.SocketEndpoint(port=n, host=address)] for n in numbers}

    module.query_ports = query_ports


def _address(module, cluster, provider_config):
    """Return the node's address; asking Slurm is slow, and a cluster does not move."""
    known = _addresses.get(cluster)
    if known is not None and time.monotonic() - known[0] < _ADDRESS_LIFETIME_S:
        return known[1]
    info = module.get_cluster_info("", cluster, provider_config)
    if info.head_instance_id is None:
        return None
    address = info.get_head_instance().internal_ip
    _addresses[cluster] = (time.monotonic(), address)
    return address


def _skip_internet_check(module):
    async def reachable():
        return None

    module.check_network_connection = lambda: None
    module.async_check_network_connection = reachable


_CHANGES = {
    "sky.clouds.slurm": _let_slurm_open_ports,
    "sky.provision.slurm": _answer_with_node_address,
    "sky.backends.backend_utils": _skip_internet_check,
}


class _ChangedLoader(importlib.abc.Loader):
    def __init__(self, loader, change):
        self._loader, self._change = loader, change

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        self._change(module)

    def __getattr__(self, name):
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in _CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = _ChangedLoader(spec.loader, _CHANGES[name])
        return spec


sys.meta_path.insert(0, _Finder())
