"""A real SkyPilot on one machine: its API server, controllers and SkyServe over a Slurm of pretended GPUs.

    python -m tests.sky.bed up      # as root; prints how to use it
    python -m tests.sky.bed down    # takes everything back that `up` changed

Real: SkyPilot with its provisioning, controllers, load balancers, probes and recovery; Slurm; ssh; a
network address per node; every process of a replica. Simulated: the hardware. Each node is a network
namespace with a `slurmd` that counts GPUs which are not there, on the machine's own CPUs.

Everything lives under one folder and ends with it, except: a Unix user, lines in /etc/hosts, one file in
/etc/profile.d, network namespaces and a bridge, all with the bed's name in theirs. SkyPilot runs from a
virtual environment of the bed's own, laid over the one that runs the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLUSTER = "mskbed"
USER = "mskbed"
BRIDGE = "mskbed-br"
SUBNET = "10.86.7"
SSH_PORT = 22622
API_PORT = 48580
CONTROLLER_PORT, NODE_PORT = 26817, 26818
HOSTS_MARK = "# mskbed"
PROFILE = Path("/etc/profile.d/zz-mskbed.sh")
PACKAGES = ("slurm-wlm", "munge", "openssh-server", "rsync", "iproute2")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sshd", "rsync", "ip", "nsenter", "unshare")
LONGEST_START_S = 60
_ABOUT_PYTHON = """
import json, sys, sysconfig
name = f"python{sys.version_info.major}.{sys.version_info.minor}"
print(json.dumps([sysconfig.get_path("purelib"), sys.base_prefix, name]))
"""
VLLM_VENV = Path(os.environ.get("VLLM_VENV", HERE.parent.parent / ".venv-vllm"))


class BedUnavailableError(Exception):
    """This machine cannot carry the bed; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One pretended machine: so many GPUs of one kind, at a price per GPU-hour that SkyPilot shows."""

    name: str
    accelerator: str | None = None
    count: int = 0
    price_usd_per_hour: float = 0.0


NODES = (
    *(
        Node(name=f"msk-a10g-{i}", accelerator="A10G", count=1, price_usd_per_hour=0.35)
        for i in range(5)
    ),
    *(
        Node(name=f"msk-a100-{i}", accelerator="A100-80GB", count=1, price_usd_per_hour=1.35)
        for i in range(4)
    ),
    Node(name="msk-cpu-0"),
)


@dataclass
class Bed:
    """The bed under `root`. `home` is SkyPilot's home, `env` what a process needs to use it."""

    root: Path
    nodes: tuple[Node, ...] = NODES
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def python(self) -> Path:
        return self.root / "venv" / "bin" / "python"

    @property
    def engine(self) -> Path:
        """Return the environment of the real vLLM as nodes see it."""
        return self.root / "engine"

    @property
    def mounts(self) -> tuple[Path, Path]:
        """Return where vLLM's packages and its Python are mounted, to read only: their own places may
        be closed to the nodes' user.
        """
        return self.root / "mounts" / "packages", self.root / "mounts" / "python"

    @property
    def shared(self) -> Path:
        """Return a folder that every node sees and may write to."""
        return self.root / "shared"

    @property
    def model(self) -> Path:
        """Return the folder of the tiny model."""
        return self.shared / "tiny"

    @property
    def env(self) -> dict[str, str]:
        """Return the whole environment of a client of the bed."""
        return {
            "HOME": str(self.home),
            "PATH": f"{self.root}/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.root / "slurm" / "slurm.conf"),
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(API_PORT),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        }

    def address(self, node: Node) -> str:
        """Return the node's address on the bed's own bridge."""
        return f"{SUBNET}.{11 + self.nodes.index(node)}"

    def run(
        self, *command: str, timeout_s: float = 300, extra_env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as a client of the bed and return what it printed; nothing is asserted."""
        return subprocess.run(
            command,
            env={**self.env, **(extra_env or {})},
            cwd=self.home,
            text=True,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def up(self) -> None:
        """Start everything; raises BedUnavailableError where this machine cannot carry it."""
        require_machine()
        self.down()
        for name in (
            "bin",
            "home/.sky",
            "home/.slurm",
            "log",
            "mounts",
            "run",
            "shared",
            "slurm",
            "spool",
            "ssh",
            "state",
        ):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o755)
        self._make_user()
        self._make_environment()
        self._make_engine()
        self._start_ssh()
        self._start_network()
        self._start_slurm()
        self._write_sky_home()
        self._wait_for_nodes()

    def down(self) -> None:
        """Stop everything and take back every change; also what an interrupted bed left behind."""
        if self.python.exists():
            with contextlib.suppress(subprocess.TimeoutExpired, OSError):
                self.run("scancel", "-u", USER, timeout_s=20)
        self._end_clients()
        for pid_file in sorted((self.root / "run").glob("*.pid")) if self.root.exists() else ():
            _end_session(pid_file)
        _end_user_processes()
        self._end_nodes()
        for daemon in self._daemons:
            daemon.wait(timeout=20)
        self._daemons.clear()
        for place in self.mounts:
            while f" {place} " in Path("/proc/self/mountinfo").read_text():
                _must("umount", "--lazy", str(place))
        for i, node in enumerate(self.nodes):
            _quiet("ip", "netns", "del", node.name)
            _quiet("ip", "link", "del", f"mskbed-v{i}")
        _quiet("ip", "link", "del", BRIDGE)
        _edit_hosts([])
        PROFILE.unlink(missing_ok=True)
        _quiet("userdel", USER)
        for name in (
            "engine",
            "home",
            "node-home",
            "run",
            "shared",
            "state",
            "spool",
            "slurm",
            "ssh",
            "venv",
        ):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _end_clients(self) -> None:
        """End SkyPilot's servers and controllers: what has the bed's HOME, runs the bed's Python, or has
        a file of that HOME open. The last finds the server's executors: a process that gives itself a title
        writes it over its command line and environment.
        """
        mark, python = f"HOME={self.home}".encode(), f"{self.python}\0".encode()
        inside = f"{self.home}/"

        def belongs(process: Path) -> bool:
            if (process / "cmdline").read_bytes().startswith(python):
                return True
            if mark in (process / "environ").read_bytes().split(b"\0"):
                return True
            return any(_target(entry).startswith(inside) for entry in (process / "fd").iterdir())

        _end_while_any(belongs)

    def _end_nodes(self) -> None:
        """End what runs in the nodes' network namespaces: Slurm's step daemons outlive its daemons."""
        spaces = set()
        for node in self.nodes:
            with contextlib.suppress(OSError):
                spaces.add(Path("/run/netns", node.name).stat().st_ino)
        _end_while_any(lambda process: (process / "ns" / "net").stat().st_ino in spaces)

    # -- the nodes' user and what they run ---------------------------------------------------------

    def _make_user(self) -> None:
        home = self.root / "node-home"
        _must("useradd", "--create-home", "--home-dir", str(home), "--shell", "/bin/bash", USER)
        _must("usermod", "--password", "*", USER)  # sshd refuses a locked account
        home.chmod(0o755)

    def _make_environment(self) -> None:
        """Lay the bed's virtual environment over the tests' own, and warm the nodes' package cache."""
        venv = self.root / "venv"
        _must(sys.executable, "-m", "venv", "--without-pip", str(venv))
        packages = Path(
            _must(
                str(self.python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"
            ).strip()
        )
        shutil.copy(HERE / "hooks.py", packages / "mskbed_hooks.py")
        below = sysconfig.get_path("purelib")
        (packages / "a_below.pth").write_text(f"import site; site.addsitedir({below!r})\n")
        (packages / "b_hooks.pth").write_text("import mskbed_hooks\n")
        _script(venv / "bin" / "sky", f"#!{self.python}\nfrom sky.cli import cli\ncli()\n")
        _script(
            venv / "bin" / "melange-sky",
            f"#!{self.python}\nfrom melange_sky.cli import main\nmain()\n",
        )
        (packages / "c_project.pth").write_text(f"{HERE.parent.parent}\n")
        self._warm_packages()
        _script(self.root / "bin" / "vllm", (HERE / "stub_engine.py").read_text())
        _script(self.root / "bin" / "uv", _UV_SHIM.format(root=self.root))
        _script(self.root / "bin" / "curl", _CURL_SHIM.format(root=self.root))
        PROFILE.write_text(
            f'if [ "$(id -un)" = {USER} ]; then export PATH={self.root}/bin:$PATH; '
            f"export SLURM_CONF={self.root}/slurm/slurm.conf; fi\n"
        )

    def _make_engine(self) -> None:
        """Show the nodes the real vLLM and a model. The one on their PATH stays the stub.

        A service or job gets the real one by a set-up of its own that links it into ~/.local/bin.
        """
        if not (VLLM_VENV / "bin" / "vllm").exists():
            raise BedUnavailableError(f"no vLLM in {VLLM_VENV}: `make test-sky` installs it")
        site, base, name = json.loads(
            _must(str(VLLM_VENV / "bin" / "python3"), "-c", _ABOUT_PYTHON)
        )
        for source, place in zip((site, base), self.mounts, strict=True):
            place.mkdir(exist_ok=True)
            _must("mount", "--bind", "-o", "ro", source, str(place))
        bin_folder = self.engine / "bin"
        bin_folder.mkdir(parents=True)
        python = bin_folder / "python3"
        _script(python, _PYTHON.format(base=self.mounts[1], name=name))
        (self.engine / "pyvenv.cfg").write_text(f"home = {self.mounts[1]}/bin\n")
        lib = self.engine / "lib" / name
        lib.mkdir(parents=True)
        (lib / "site-packages").symlink_to(self.mounts[0])
        byte_code = self.root / "pycache"
        byte_code.mkdir(exist_ok=True)  # kept between runs: compiling takes longer than starting
        _script(
            bin_folder / "vllm",
            _VLLM.format(python=python, byte_code=str(byte_code)),
        )
        _must(str(python), str(HERE.parent / "stack" / "tiny_model.py"), str(self.model), "2")
        _must("chown", "-R", f"{USER}:{USER}", str(byte_code), str(self.shared))
        # Where the nodes' user cannot run it, this tells so at once.
        _must("runuser", "-u", USER, "--", str(python), "-c", "import aiohttp, numpy")

    def _warm_packages(self) -> None:
        """Fetch once, with the network, what SkyPilot installs on each node; nodes have none."""
        cache, uv = self.root / "uv-cache", self.root / "uv-venv" / "bin" / "uv"
        version = _must(
            sys.executable, "-c", "import importlib.metadata as m; print(m.version('skypilot'))"
        ).strip()
        stamp = cache / f".warm-{version}"
        if not stamp.exists():
            _must(sys.executable, "-m", "venv", str(self.root / "uv-venv"))
            _must(
                str(self.root / "uv-venv" / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "uv>=0.8",
            )
            trial = self.root / "trial"
            env = {
                **os.environ,
                "UV_CACHE_DIR": str(cache),
                "UV_LINK_MODE": "copy",
                "VIRTUAL_ENV": str(trial),
            }
            _must(
                str(uv),
                "venv",
                "--quiet",
                "--clear",
                "--seed",
                "--python",
                sys.executable,
                str(trial),
                env=env,
            )
            _must(
                str(uv),
                "pip",
                "install",
                "--quiet",
                f"skypilot[slurm,remote]=={version}",
                "wheel",
                "setuptools",
                env=env,
            )
            shutil.rmtree(trial)
            stamp.touch()
        _must("chown", "-R", f"{USER}:{USER}", str(cache))

    # -- ssh, network, slurm -----------------------------------------------------------------------

    def _start_ssh(self) -> None:
        ssh = self.root / "ssh"
        for key in ("host", "client"):
            _must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / key))
        keys = self.root / "node-home" / ".ssh"
        keys.mkdir(mode=0o700)
        shutil.copy(ssh / "client.pub", keys / "authorized_keys")
        _must("chown", "-R", f"{USER}:{USER}", str(keys))
        Path("/run/sshd").mkdir(exist_ok=True)
        config = ssh / "sshd_config"
        config.write_text(_SSHD_CONFIG.format(root=self.root, port=SSH_PORT, user=USER))
        self._start("sshd", "/usr/sbin/sshd", "-D", "-e", "-f", str(config))

    def _start_network(self) -> None:
        _must("ip", "link", "add", BRIDGE, "type", "bridge")
        _must("ip", "addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        _must("ip", "link", "set", BRIDGE, "up")
        for i, node in enumerate(self.nodes):
            outer = f"mskbed-v{i}"
            _must("ip", "netns", "add", node.name)
            _must(
                "ip",
                "link",
                "add",
                outer,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                node.name,
            )
            _must("ip", "link", "set", outer, "master", BRIDGE, "up")
            _must("ip", "-n", node.name, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _must("ip", "-n", node.name, "link", "set", device, "up")
            _must("ip", "-n", node.name, "route", "add", "default", "via", f"{SUBNET}.1")
        _edit_hosts([f"{self.address(node)} {node.name}" for node in self.nodes])

    def _start_slurm(self) -> None:
        slurm = self.root / "slurm"
        host = os.uname().nodename
        (slurm / "slurm.conf").write_text(self._slurm_config(host))
        gpus = [
            f"NodeName={n.name} Name=gpu Type={n.accelerator} File=/dev/tty[0-{n.count - 1}]\n"
            for n in self.nodes
            if n.accelerator
        ]  # any device file will do: it is counted, never opened
        (slurm / "gres.conf").write_text("".join(gpus))
        key = slurm / "munge.key"
        key.write_bytes(os.urandom(1024))
        for path in (key, slurm):
            _must("chown", "munge:munge", str(path))
        key.chmod(0o400)
        slurm.chmod(0o755)
        self._start(
            "munged",
            "runuser",
            "-u",
            "munge",
            "--",
            "munged",
            "--foreground",
            "--force",
            f"--socket={slurm}/munge.socket",
            f"--key-file={key}",
            f"--pid-file={slurm}/munge.pid",
            f"--log-file={slurm}/munge.log",
            f"--seed-file={slurm}/munge.seed",
        )
        _wait(lambda: (slurm / "munge.socket").exists(), "munge did not start")
        self._start("slurmctld", "slurmctld", "-D", "-c", "-f", str(slurm / "slurm.conf"))
        for node in self.nodes:
            inside = f"hostname {node.name}; exec slurmd -D -N {node.name} -f {slurm}/slurm.conf"
            self._start(
                f"slurmd-{node.name}",
                "nsenter",
                f"--net=/run/netns/{node.name}",
                "unshare",
                "--uts",
                "bash",
                "-c",
                inside,
            )

    def _slurm_config(self, host: str) -> str:
        lines = [
            _SLURM_CONFIG.format(
                root=self.root,
                cluster=CLUSTER,
                host=host,
                address=f"{SUBNET}.1",
                controller=CONTROLLER_PORT,
                node=NODE_PORT,
            )
        ]
        partitions: dict[str, list[str]] = {}
        for node in self.nodes:
            gpus = f" Gres=gpu:{node.accelerator}:{node.count}" if node.accelerator else ""
            lines.append(
                f"NodeName={node.name} NodeAddr={self.address(node)} CPUs=16 RealMemory=64000{gpus} State=UNKNOWN\n"
            )
            partitions.setdefault(node.accelerator or "cpu", []).append(node.name)
        for name, members in partitions.items():
            default = " Default=YES" if name == "cpu" else ""
            lines.append(
                f"PartitionName={name.lower()} Nodes={','.join(members)} MaxTime=INFINITE "
                f"DefaultTime=1-00:00:00 State=UP{default}\n"
            )
        return "".join(lines)

    def _write_sky_home(self) -> None:
        (self.home / ".slurm" / "config").write_text(
            f"Host {CLUSTER}\n  HostName 127.0.0.1\n  Port {SSH_PORT}\n  User {USER}\n"
            f"  IdentityFile {self.root}/ssh/client\n"
        )
        prices = {n.accelerator: n.price_usd_per_hour for n in self.nodes if n.accelerator}
        cluster = {"pricing": {"cpu": 0.0, "memory": 0.0, "accelerators": prices}}
        config = {
            "allowed_clouds": ["slurm"],
            "serve": {"controller": {"consolidation_mode": True}},
            "jobs": {"controller": {"consolidation_mode": True}},
            "admin_policy": "melange_sky.skyplugin.Guard",
            "plugins": {"melange": {"guard": {"launch": "refuse"}}},
            "slurm": {
                "allowed_clusters": [CLUSTER],
                "provision_timeout": 60,
                "cluster_configs": {CLUSTER: cluster},
            },
        }
        (self.home / ".sky" / "config.yaml").write_text(
            json.dumps(config, indent=1)
        )  # JSON is YAML
        ours = {
            "class": "melange_sky.skyplugin.Plugin",
            "parameters": {"plan_dirs": [str(self.home / "desk")]},
        }
        (self.home / ".sky" / "plugins.yaml").write_text(json.dumps({"plugins": [ours]}))
        common = self.home / ".sky" / "catalogs" / "v8" / "common"
        common.mkdir(parents=True)
        names = "".join(f"{name},\"['Slurm']\"\n" for name in sorted(prices))
        (common / "accelerators.csv").write_text(f"AcceleratorName,Clouds\n{names}")

    def _wait_for_nodes(self) -> None:
        def all_idle() -> bool:
            done = self.run("sinfo", "--noheader", "-N", "-o", "%t", timeout_s=20)
            return done.stdout.split() == ["idle"] * len(self.nodes)

        _wait(all_idle, f"Slurm's nodes did not come up; see {self.root}/log")

    def _start(self, name: str, *command: str) -> None:
        """Start a daemon in a session of its own, so that it and its children can be ended together."""
        log = (self.root / "log" / f"{name}.log").open("wb")
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "SLURM_CONF": self.env["SLURM_CONF"]},
        )
        log.close()
        self._daemons.append(process)
        (self.root / "run" / f"{name}.pid").write_text(str(process.pid))


def require_machine() -> None:
    """Install what is missing; raise BedUnavailableError where that cannot be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise BedUnavailableError(
            "the SkyPilot bed needs root on Linux (network namespaces, a Slurm of its own)"
        )
    missing = [name for name in PROGRAMS if shutil.which(name, path=_ROOT_PATH) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise BedUnavailableError(
            f"the SkyPilot bed needs {', '.join(missing)}, and there is no apt-get"
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        _must("apt-get", "update", "-qq", env=env)
        _must("apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES, env=env)
    except RuntimeError as error:
        raise BedUnavailableError(
            f"the SkyPilot bed could not install {', '.join(PACKAGES)}"
        ) from error


_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PYTHON = """#!/bin/bash
# A Python that was built with a shared library looks for it where it was installed.
export LD_LIBRARY_PATH={base}/lib
exec -a "$0" {base}/bin/{name} "$@"
"""

_VLLM = """#!{python}
import sys

sys.pycache_prefix = {byte_code!r}
from vllm.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""

_UV_SHIM = """#!/bin/bash
# SkyPilot asks for CPython 3.10 from the network; a node has neither and takes the system's.
export UV_OFFLINE=1 UV_CACHE_DIR={root}/uv-cache
words=()
for word in "$@"; do [ "$word" = 3.10 ] && word=/usr/bin/python3; words+=("$word"); done
exec {root}/uv-venv/bin/uv "${{words[@]}}"
"""

_CURL_SHIM = """#!/bin/bash
# SkyPilot fetches uv's installer; a node gets the bed's own uv instead.
for word in "$@"; do
  case "$word" in
    *astral.sh/uv/install.sh*)
      echo 'mkdir -p "$UV_INSTALL_DIR" && install -m755 {root}/bin/uv "$UV_INSTALL_DIR/uv"'
      exit 0 ;;
  esac
done
exec /usr/bin/curl "$@"
"""

_SSHD_CONFIG = """Port {port}
ListenAddress 127.0.0.1
AllowUsers {user}
HostKey {root}/ssh/host
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv SLURM_CONF={root}/slurm/slurm.conf
MaxSessions 200
MaxStartups 200
Subsystem sftp internal-sftp
"""

_SLURM_CONFIG = """ClusterName={cluster}
SlurmctldHost={host}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/slurm/munge.socket
CredType=cred/munge
SlurmctldPort={controller}
SlurmdPort={node}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurm/slurmctld.pid
SlurmdPidFile={root}/slurm/slurmd-%n.pid
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
KillWait=5
MinJobAge=300
"""


def _must(*command: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": _ROOT_PATH} | dict(env or {}),
        text=True,
        capture_output=True,
        timeout=600,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {(done.stderr or done.stdout)[-1500:]}")
    return done.stdout


def _quiet(*command: str) -> None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            command,
            env={**os.environ, "PATH": _ROOT_PATH},
            capture_output=True,
            timeout=30,
            check=False,
        )


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _edit_hosts(lines: Iterable[str]) -> None:
    """Make the bed's lines in /etc/hosts these. Written in place: containers mount the file."""
    path = Path("/etc/hosts")
    old = path.read_text()
    others = [line for line in old.splitlines() if not line.endswith(HOSTS_MARK)]
    new = "\n".join([*others, *(f"{line} {HOSTS_MARK}" for line in lines)]) + "\n"
    if new != old:
        path.write_text(new)


def _end_session(pid_file: Path) -> None:
    """End the daemon that a pid file of the bed names, with all of its session."""
    pid = int(pid_file.read_text())
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, sent)
            time.sleep(0.3)
    pid_file.unlink()


def _target(link: Path) -> str:
    """Return what a link of /proc points to; nothing where it is gone."""
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _end_user_processes() -> None:
    """End what the nodes' user still runs: the user exists for the bed alone."""
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(USER).pw_uid
        _end_while_any(lambda process: process.stat().st_uid == uid)


def _end_while_any(belongs: Callable[[Path], bool]) -> None:
    """End the processes that belong, again until none is left: some start others when they end.

    Raises RuntimeError, with their names, where some do not end.
    """
    found: list[str] = []
    for attempt in range(12):
        found.clear()
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if not process.name.isdigit() or int(process.name) == os.getpid():
                    continue
                # one that has ended and waits for its parent has no command line any more
                if (process / "cmdline").read_bytes() and belongs(process):
                    found.append((process / "comm").read_text().strip())
                    os.kill(int(process.name), signal.SIGTERM if attempt == 0 else signal.SIGKILL)
        if not found:
            return
        time.sleep(0.5)
    raise RuntimeError(f"still running: {', '.join(found)}")


def _wait(condition: Callable[[], bool], message: str, limit_s: float = LONGEST_START_S) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            raise RuntimeError(message)
        time.sleep(0.3)


def default_root() -> Path:
    """Return where the bed lies: kept between runs for its package cache, else emptied by `down`."""
    return Path(os.environ.get("MELANGE_SKY_BED", "/var/tmp/melange-sky-bed"))


def main() -> None:
    bed = Bed(default_root())
    if sys.argv[1:] == ["up"]:
        bed.up()
        exports = " ".join(f"{key}={value}" for key, value in bed.env.items())
        print(f"export {exports}\ncd {bed.home}")
    elif sys.argv[1:] == ["down"]:
        bed.down()
    else:
        sys.exit("usage: python -m tests.sky.bed up|down")


if __name__ == "__main__":
    main()
