"""The text of haproxy.cfg, from the template and a fleet."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.rendering.haproxy.limits import (
    body_bytes,
    buffer_bytes,
    most_requests,
    whole_bytes,
)
from melange_sky.rendering.haproxy.tables import backend_name, server_names
from melange_sky.rendering.haproxy.words import address, comment, word
from melange_sky.resources import templates_dir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from melange_sky.rendering.haproxy.fleet import ProxyLimits, Replica, ServedModel

_PLACE = re.compile(r"\{\{([a-z_]+)\}\}")


def template(name: str) -> str:
    """Return the text of one of HAProxy's templates."""
    return (templates_dir() / "haproxy" / name).read_text(encoding="utf-8")


def config_text(models: Sequence[ServedModel], limits: ProxyLimits) -> str:
    """Return haproxy.cfg. Raises InputError for an address or a file name that it cannot hold."""
    bind = address(limits.host, limits.port, "--host")
    if limits.certificate is not None:
        bind += f" ssl crt {word(str(limits.certificate))} ssl-min-ver TLSv1.2"
    again = _again(models, limits)
    values = {
        "header": _header(models, limits),
        "drain": f"{max(1, limits.drain_s):.0f}",
        "buffer_bytes": str(buffer_bytes(models)),
        "queue_wait": f"{max(1, limits.queue_wait_s):.0f}",
        "first_byte": f"{max(1, limits.first_byte_s):.0f}",
        "bind": bind,
        "again": again,
        "backends": "\n".join(_backend(model, limits, again) for model in models),
    }
    return _filled(template("haproxy.cfg"), values)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: values[place[1]], text)


def _again(models: Sequence[ServedModel], limits: ProxyLimits) -> str:
    """Return what names the proxy's way to itself: the same from plan to plan, another at another address."""
    told = f"{models[0].plan.name} {limits.host} {limits.port}"
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _backend(model: ServedModel, limits: ProxyLimits, again: str) -> str:
    values = {
        "title": comment(f"{model.plan.name}: {', '.join(model.names)}"),
        "backend": backend_name(model),
        "answer": f"{max(limits.answer_s, limits.first_byte_s):.0f}",
        "again": again,
        "servers": "\n".join(_servers(model, limits)),
    }
    return _filled(template("backend.cfg"), values).rstrip("\n") + "\n"


def _servers(model: ServedModel, limits: ProxyLimits) -> Iterator[str]:
    names = server_names(model)
    if len({name for row in names for name in row}) < sum(map(len, names)):
        raise InputError(f"plan of {comment(model.plan.name)}: has two options of one name")
    for k, row in enumerate(names):
        if row:
            yield f"    # {comment(model.options[k])}"
        for name, replica in zip(row, model.replicas[k], strict=True):
            most = most_requests(model.slots[k], replica.copies, limits.proxies)
            where = address(replica.host, replica.port, f"backend of {comment(model.options[k])}")
            yield f"    server {name} {where} maxconn {most}{_tls(replica, limits)}"


def _tls(replica: Replica, limits: ProxyLimits) -> str:
    if not replica.secure:
        return ""
    known = "@system-ca" if limits.replica_ca is None else word(str(limits.replica_ca))
    host = word(replica.host)
    return (
        f" ssl verify required ca-file {known} sni str({host}) verifyhost {host} check-sni {host}"
    )


def _header(models: Sequence[ServedModel], limits: ProxyLimits) -> str:
    whole, most = whole_bytes(models), body_bytes(models, limits)
    lines = (
        "HAProxy 2.6 or later (with Lua) in place of `melange-sky gateway`: the routing of a plan.",
        "Written by `melange-sky gateway PLAN --export haproxy DIR`; `melange-sky help haproxy` says more.",
        "",
        "  Check:    haproxy -c -f haproxy.cfg",
        "  Run:      haproxy -W -db -f haproxy.cfg      (keys: MELANGE_SKY_API_KEY, "
        + limits.key_variable
        + ")",
        "  New plan: export again into this folder, then kill -USR2 the first of the processes; requests",
        "            under way end at the old one. Settings of your own go into a file of their own: a second -f.",
        "  Several:  each on its own; export with --gateways N, and set MELANGE_SKY_INSTANCE on one machine.",
        "",
        "What it cannot do that the gateway does: count tokens exactly (text is taken at 4 bytes a token),",
        "learn how long answers are (it keeps to the plan's lengths), count requests by size in /metrics (the",
        "log has what is known), weigh requests by size within a replica (it counts them), repeat a request",
        "of which an answer has begun, 429 or a page that is no JSON included, tell a broken stream from",
        "within, or leave out a replica that breaks streams while its /health says 200.",
        f"Bodies up to {whole} bytes are read as a whole. Longer ones, up to {most}, are routed by their length,",
        "by what their start says, and are not repeated.",
        *_options(models),
    )
    return "".join(f"# {line}".rstrip() + "\n" for line in lines).rstrip("\n")


def _options(models: Sequence[ServedModel]) -> Iterator[str]:
    for model in models:
        for option, replicas, slots in zip(model.options, model.replicas, model.slots, strict=True):
            told = f"{len(replicas)} replicas" if replicas else "no replica known"
            yield comment(
                f"{model.plan.name}, {option}: {told}, each full at about {slots:.1f} requests"
            )
