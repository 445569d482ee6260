"""What the environment says: home, network, addresses, keys and secrets. Nothing else reads it.

Two processes are apart: the job on a rented machine takes its task from the variables that
`profiler.job` names, and a benchmark that is started inherits the environment whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from melange_sky.errors import InputError

_BASE_URL = "https://raw.githubusercontent.com/skypilot-org/skypilot-catalog/master/catalogs"
_MIRROR_URL = "https://skypilot-catalog.s3.us-east-1.amazonaws.com/catalogs"
_SCHEMA = "v8"
"""SkyPilot 0.14's hosted catalogs and their mirror (`sky/skylet/constants.py`)."""


def keep_one_thread_for_products() -> None:
    """Keep NumPy from starting a thread per core for products of large matrices: there are none here."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Linux's limit of processor time of the control group: microseconds that may be used, and in how many."""


def usable_cores() -> int:
    """Return how many cores this process may use at once, by affinity and control group; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # macOS, Windows
        cores = os.cpu_count() or 1
    try:
        used_us, of_us = CPU_QUOTA.read_text(encoding="ascii").split()
        cores = min(cores, max(1, -(-int(used_us) // int(of_us))))
    except (OSError, ValueError):  # no control groups, or "max": no limit
        pass
    return cores


def home_dir() -> Path:
    """Return the folder of caches and profiles (MELANGE_SKY_HOME, else the platform's)."""
    home = os.environ.get("MELANGE_SKY_HOME")
    if home:
        return Path(home)
    import platformdirs

    return Path(platformdirs.user_data_dir("melange-sky"))


def prices_dir() -> Path:
    """Return the folder of price snapshots."""
    return home_dir() / "prices"


def profiles_dir() -> Path:
    """Return the folder of the user's own profile tables."""
    return home_dir() / "profiles"


PROFILE_SUFFIX = ".profile.jsonl"
"""How a profile table's file ends."""


def estimates_dir() -> Path:
    """Return the folder of the cache of estimated capacities."""
    return home_dir() / "estimates"


def machine_code_dir() -> Path:
    """Return the folder of the machine code that this machine made of the simulator."""
    return home_dir() / "code"


def is_offline(asked: bool = False) -> bool:
    """Return whether the network is forbidden: by what was asked, or by MELANGE_SKY_OFFLINE."""
    return asked or os.environ.get("MELANGE_SKY_OFFLINE", "") not in ("", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogAddresses:
    """Where the hosted catalogs are: `<base>/<schema>/<cloud>/vms.csv`."""

    base: str = _BASE_URL
    mirror: str | None = _MIRROR_URL
    schema: str = _SCHEMA

    def of(self, cloud: str) -> tuple[str, ...]:
        """Return the file's addresses, preferred first."""
        bases = (self.base,) if self.mirror is None else (self.base, self.mirror)
        return tuple(f"{base}/{self.schema}/{cloud}/vms.csv" for base in bases)


def catalog_addresses() -> CatalogAddresses:
    """Return what MELANGE_SKY_CATALOG_URL and _SCHEMA say (a URL disables the mirror)."""
    base = os.environ.get("MELANGE_SKY_CATALOG_URL")
    schema = os.environ.get("MELANGE_SKY_CATALOG_SCHEMA") or _SCHEMA
    if base:
        return CatalogAddresses(base=base.rstrip("/"), mirror=None, schema=schema)
    return CatalogAddresses(schema=schema)


def api_url(source: str, default: str) -> str:
    """Return a price API's address: MELANGE_SKY_<SOURCE>_URL, for mirrors and tests, else its own."""
    return os.environ.get(f"MELANGE_SKY_{source.upper()}_URL") or default


def hub_endpoint() -> str | None:
    """Return the address of the Hugging Face Hub that HF_ENDPOINT names, None for its own."""
    return os.environ.get("HF_ENDPOINT") or None


def hub_is_off() -> bool:
    """Return whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids the Hub."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def gcp_api_key() -> str | None:
    """Return the key for GCP's price list, None where there is none."""
    return os.environ.get("MELANGE_SKY_GCP_API_KEY") or os.environ.get("GOOGLE_API_KEY") or None


def sky_dir() -> Path:
    """Return SkyPilot's own folder, `~/.sky` unless SKY_RUNTIME_DIR moves it."""
    return Path(os.environ.get("SKY_RUNTIME_DIR") or "~").expanduser() / ".sky"


def sky_config_files() -> tuple[Path, ...]:
    """Return the files of SkyPilot's configuration that there are, the one that wins last.

    SKYPILOT_CONFIG stands alone; else SKYPILOT_GLOBAL_CONFIG (`~/.sky/config.yaml`), then
    SKYPILOT_PROJECT_CONFIG (`.sky.yaml` of the working folder), as `sky/skypilot_config.py` has it.
    """
    alone = os.environ.get("SKYPILOT_CONFIG")
    both = (
        os.environ.get("SKYPILOT_GLOBAL_CONFIG") or "~/.sky/config.yaml",
        os.environ.get("SKYPILOT_PROJECT_CONFIG") or ".sky.yaml",
    )
    paths = [Path(text).expanduser() for text in ((alone,) if alone else both)]
    return tuple(path for path in paths if path.is_file())


def server_config_file() -> Path:
    """Return the configuration of SkyPilot's API server: SKYPILOT_GLOBAL_CONFIG, else `~/.sky/config.yaml`."""
    return Path(os.environ.get("SKYPILOT_GLOBAL_CONFIG") or "~/.sky/config.yaml").expanduser()


def server_plugins_file() -> Path:
    """Return the list of the API server's plugins: SKYPILOT_SERVER_PLUGINS_CONFIG, else `~/.sky/plugins.yaml`."""
    named = os.environ.get("SKYPILOT_SERVER_PLUGINS_CONFIG")
    return Path(named or "~/.sky/plugins.yaml").expanduser()


def for_sky() -> dict[str, str]:
    """Return the environment of a process that asks SkyPilot: this one's, without its reports of usage."""
    return {**os.environ, "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}


def handed_on() -> dict[str, str]:
    """Return the variables that a command started later needs to find the same files and server.

    One that holds a user and a password is left out: it is a secret, and belongs into no file.
    """
    names = ("MELANGE_SKY_HOME", "SKYPILOT_API_SERVER_ENDPOINT")
    found = {name: os.environ.get(name, "") for name in names}
    return {
        name: value
        for name, value in found.items()
        if value and "\n" not in value and "@" not in value
    }


def source_date_epoch() -> int | None:
    """Return the seconds since 1970 that SOURCE_DATE_EPOCH fixes as now, None where it is not set.

    Raises InputError where it holds no number.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return None
    try:
        return int(epoch)
    except ValueError as error:
        raise InputError(
            "SOURCE_DATE_EPOCH must be a whole number of seconds since 1970"
        ) from error


def secret(name: str) -> str | None:
    """Return the value of a variable that the user named for a key, None where empty or not set."""
    return os.environ.get(name) or None


def secrets(names: Iterable[str]) -> dict[str, str]:
    """Return those of the named secrets that the environment holds."""
    return {name: value for name in names if (value := secret(name)) is not None}
