"""The gateway's keys and certificates: read from files or the environment, never shown."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from melange_sky import settings
from melange_sky.errors import InputError
from melange_sky.gateway import Credentials, Keys, Secret, tls_context

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

CLIENT_KEYS = "MELANGE_SKY_API_KEY"
"""The variable that holds clients' keys where no file is given."""

_MOST_KEY_BYTES = 64 * 1024


def read_credentials(
    api_key_file: Path | None,
    replica_key_file: Path | None,
    replica_ca: Path | None,
    replica_variable: str,
) -> Credentials:
    """Return the keys that clients must show and the one for replicas, from files or variables."""
    clients = _read_keys(api_key_file, CLIENT_KEYS, "--api-key-file")
    replicas = _read_keys(replica_key_file, replica_variable, "--replica-key-file")
    if len(replicas) > 1:
        raise InputError(
            "--replica-key-file: contains several keys; exactly one is sent to replicas"
        )
    if replica_ca is not None and not replica_ca.is_file():
        raise InputError(f"--replica-ca: {replica_ca}: no such file")
    return Credentials(
        clients=Keys(clients),
        replicas=Secret(replicas[0] if replicas else None),
        replica_ca=replica_ca,
    )


def _read_keys(path: Path | None, variable: str, flag: str) -> list[str]:
    """Return the keys of a file, or of an environment variable; no message ever shows one."""
    if path is None:
        text = settings.secret(variable) or ""
    else:
        try:
            text = path.read_bytes()[: _MOST_KEY_BYTES + 1].decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{flag}: {path}: cannot be read ({type(error).__name__})") from error
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if path is not None and not keys:
        raise InputError(f"{flag}: {path}: contains no key")
    if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise InputError(f"{flag} or {variable}: a key must be printable ASCII without spaces")
    return keys


def require_key(host: str, credentials: Credentials, *, no_key: bool) -> None:
    """Raise InputError where others can reach `host` and no key is demanded of them."""
    if credentials.clients or no_key or is_loopback(host):
        return
    raise InputError(
        f"--host {host[:80]} can be reached by others: require an API key ({CLIENT_KEYS} or --api-key-file), or pass --no-key"
    )


def is_loopback(host: str) -> bool:
    """Return whether a host can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_certificate(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return the TLS settings of a certificate chain and its key, None where there is none."""
    if certificate is None:
        if key is not None:
            raise InputError("--tls-key needs --tls-cert")
        return None
    try:
        return tls_context(certificate, key)
    except OSError as error:  # of which SSLError is one
        raise InputError(f"--tls-cert: cannot be used: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"--tls-cert: cannot be used: {error}") from error
