"""Untrusted text in HAProxy's configuration and in Lua: as data, whatever it holds."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterable, Mapping

from melange_sky.errors import InputError, clip

_PLAIN = re.compile(rb"[A-Za-z0-9 ._/:-]")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,253}[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z_]+")


def lua(value: object) -> str:
    r"""Return a value as a Lua literal: text by its bytes, lists from 1, objects by their keys.

    Raises InputError for a number that is not finite.

    >>> lua({"a": [1, 0.5, True, None], "b": 'x"\n'})
    '{a = {1, 0.5, true, false}, b = "x\\034\\010"}'
    """
    if value is None or isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{_escaped(value)}"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InputError("plan: holds a number that is not finite")
        return repr(value)
    if isinstance(value, Mapping):
        assert all(_NAME.fullmatch(key) for key in value)
        return "{" + ", ".join(f"{key} = {lua(each)}" for key, each in value.items()) + "}"
    assert isinstance(value, Iterable)
    return "{" + ", ".join(map(lua, value)) + "}"


def _escaped(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return "".join(chr(byte) if _PLAIN.match(bytes([byte])) else f"\\{byte:03d}" for byte in data)


def word(text: str) -> str:
    """Return text as one quoted word of the configuration. Raises InputError for control characters.

    >>> print(word("/a b/c'$HOME"))
    '/a b/c'\\''$HOME'
    """
    if not text.isprintable():
        raise InputError(f"'{clip(text)}': cannot stand in HAProxy's configuration; choose another")
    return "'" + text.replace("'", "'\\''") + "'"


def comment(text: str) -> str:
    """Return text for a comment: one line, of bounded length."""
    return clip(text, 120)


def address(host: str, port: int, what: str) -> str:
    """Return HOST:PORT for HAProxy. Raises InputError where the host is neither a name nor an address.

    >>> address("10.0.0.1", 80, "x"), address("::1", 80, "x"), address("gpu-1.example", 80, "x")
    ('ipv4@10.0.0.1:80', 'ipv6@[::1]:80', 'gpu-1.example:80')
    """
    try:
        known = ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            raise InputError(
                f"{what}: '{clip(host)}' is not a host that HAProxy can be given"
            ) from None
        return f"{host}:{port}"
    if getattr(known, "scope_id", None):
        raise InputError(f"{what}: '{clip(host)}': an address with a zone cannot be exported")
    return f"ipv6@[{known}]:{port}" if known.version == 6 else f"ipv4@{known}:{port}"
