"""Several servers on one machine behind one port.

SkyServe knows one port of a replica. Where an engine has no way of its own to run independent copies
of a model behind it, HAProxy stands in front of the servers and sends each request to the one with
the fewest in flight. It starts once all of them serve, and tells the health probe no as soon as one
does not, so that a replica counts as ready only with its whole capacity. When any of the processes
ends, the whole replica ends, and SkyServe replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = "1h"
"""How long a connection may be silent: the limits of streams are those of SkyServe's balancer."""

INSTALL = """\
export PATH="$PATH:/usr/sbin"
if ! command -v haproxy >/dev/null 2>&1; then
  as_root=$(command -v sudo || true)
  export DEBIAN_FRONTEND=noninteractive
  $as_root apt-get -o DPkg::Lock::Timeout=600 -qq update
  $as_root apt-get -o DPkg::Lock::Timeout=600 -qq -y --no-install-recommends install haproxy
fi
"""
"""Set-up of a machine that runs several servers: HAProxy of its own distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """`count` servers, each on `gpus` GPUs of its own, behind `port`; server i listens on port + 1 + i."""

    count: int
    gpus: int
    port: int
    health_path: str

    @property
    def own_port(self) -> str:
        """The port of server `$i` as shell text."""
        return f"$(({self.port + 1} + i))"


def one_port(command: str, servers: Servers) -> str:
    """Return the shell text that starts `command` once per server, and HAProxy in front of them.

    The command finds the number of its server in `$i`.
    """
    first, last = f"$((i * {servers.gpus}))", f"$((i * {servers.gpus} + {servers.gpus - 1}))"
    visible = "$i" if servers.gpus == 1 else f"$(seq -s , {first} {last})"
    loop = f"for i in {' '.join(map(str, range(servers.count)))}; do"
    health = f'"http://127.0.0.1:{servers.own_port}{servers.health_path}"'
    inner = command.replace("\n", "\n  ")
    return f"""\
export PATH="$PATH:/usr/sbin"
trap 'kill $(jobs -p) 2>/dev/null' EXIT
{loop}
  CUDA_VISIBLE_DEVICES="{visible}" {inner} &
done
cat > "$HOME/servers.cfg" <<'END'
{_proxy(servers)}END
(
  {loop}
    until curl -fs -o /dev/null {health}; do sleep 2; done
  done
  exec haproxy -db -f "$HOME/servers.cfg"
) &
wait -n
exit 1
"""


def _proxy(servers: Servers) -> str:
    listen = "".join(
        f"  server s{i} 127.0.0.1:{servers.port + 1 + i}\n" for i in range(servers.count)
    )
    return f"""\
defaults
  mode http
  timeout connect 5s
  timeout check 15s
  timeout client {PATIENCE}
  timeout server {PATIENCE}
  option http-no-delay
frontend replica
  bind :{servers.port}
  monitor-uri {servers.health_path}
  acl incomplete nbsrv(servers) lt {servers.count}
  monitor fail if incomplete
  default_backend servers
backend servers
  balance leastconn
  option httpchk GET {servers.health_path}
  default-server check inter 5s fall 6 rise 1
{listen}"""
