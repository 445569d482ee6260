"""The plan as Lua's data: the very tables that the gateway routes by, from buckets to shares."""

from __future__ import annotations

import hashlib
import itertools
from typing import TYPE_CHECKING, Any

from melange_sky.rendering.haproxy.limits import (
    ATTEMPTS,
    BYTES_PER_TOKEN,
    body_bytes,
    whole_bytes,
)
from melange_sky.rendering.haproxy.words import lua
from melange_sky.rendering.names import slug
from melange_sky.routing import FULL_LOAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from melange_sky.rendering.haproxy.fleet import ProxyLimits, Replica, ServedModel
    from melange_sky.routing.homes import Homes
    from melange_sky.routing.vector import Value, Vector


def backend_name(model: ServedModel) -> str:
    """Return the name of a model's backend: valid, and no other model's."""
    return f"model-{slug(model.plan.name)}"


def server_names(model: ServedModel) -> list[list[str]]:
    """Return the names of the replicas by option: the option's, numbered."""
    return [
        [f"{slug(option)}.{n}" for n in range(1, len(replicas) + 1)]
        for option, replicas in zip(model.options, model.replicas, strict=True)
    ]


def plan_lua(models: Sequence[ServedModel], limits: ProxyLimits) -> str:
    """Return the text of plan.lua."""
    out = [
        "-- The plan's routing as data; melange-sky wrote it, route.lua reads it.",
        "-- A class of requests is (input bucket, output bucket of max_tokens, or the one after the last",
        "-- where none was given); `mix` has its shares per option, `fit` which options can serve it.",
        "melange_plan = {",
    ]
    out += [f"  {key} = {lua(value)}," for key, value in _general(models, limits).items()]
    out.append("  models = {")
    for model in models:
        out.append("    {")
        out += [f"      {line}" for line in _model(model, limits)]
        out.append("    },")
    return "\n".join([*out, "  },", "}", ""])


def _general(models: Sequence[ServedModel], limits: ProxyLimits) -> dict[str, Any]:
    general = {
        "attempts": ATTEMPTS,
        "bytes_per_token": BYTES_PER_TOKEN,
        "full_load": FULL_LOAD,
        "queue_length": limits.queue_length,
        "body_bytes": body_bytes(models, limits),
        "whole_bytes": whole_bytes(models),
        "key_needed": limits.key_needed,
        "key_file": None if limits.key_file is None else str(limits.key_file),
        "replica_key_file": None
        if limits.replica_key_file is None
        else str(limits.replica_key_file),
        "replica_key_variable": limits.key_variable,
        "session_header": limits.session_header,
    }
    return {key: value for key, value in general.items() if value is not None}


def _model(model: ServedModel, limits: ProxyLimits) -> Iterator[str]:
    table, state = model.table, model.state
    yield f"name = {lua(model.plan.name)}, backend = {lua(backend_name(model))},"
    yield f"names = {lua(list(model.names))},"
    yield f"input_edges = {lua(numbers(table.input_edges))},"
    yield f"output_edges = {lua(numbers(table.output_edges))},"
    yield f"most_choices = {model.most_choices}, most_sequences = {model.most_sequences},"
    yield "options = {"
    for k, names in enumerate(server_names(model)):
        option = {
            "name": model.options[k],
            "limit_tokens": table.limit_tokens[k],
            "slots": model.slots[k] / limits.proxies,  # each proxy sees its own requests alone
            "servers": [
                {
                    "name": name,
                    "copies": each.copies,
                    "host": _host(each.host, each.port),
                    "seed": _seed(each),
                }
                for name, each in zip(names, model.replicas[k], strict=True)
            ],
        }
        yield f"  {lua(option)},"
    yield "},"
    for what, values in (
        ("mix", numbers(state.mix)),
        ("fit", [bool(fit) for fit in numbers(state.fit)]),
    ):
        yield from _rows(what, _split(values, table.options))
    if model.homes is not None:
        yield from _rows("pieces", _pieces(model.homes))
        yield from _rows("most", _split(numbers(model.homes.most), table.options))


def _rows(what: str, rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"{what} = {{"
    for row in rows:
        yield f"  {lua(row)},"
    yield "},"


def _split(values: Sequence[object], options: int) -> list[Sequence[object]]:
    return [values[at : at + options] for at in range(0, len(values), options)]


def _pieces(homes: Homes) -> list[list[int]]:
    """Return, per class, where each piece ends and whose it is: end, option, end, option, …"""
    first = numbers(homes.piece_first)
    return [
        [n for at in range(start, end) for n in (homes.piece_end[at], homes.piece_option[at] + 1)]
        for start, end in itertools.pairwise(first)
    ]


def _seed(replica: Replica) -> int:
    """Return a number of 60 bits that stands for a replica: by where it answers, so that it stays."""
    told = _host(replica.host, replica.port).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big") >> 4


def numbers(vector: Vector[Value]) -> list[Value]:
    """Return what a vector holds."""
    return [vector[at] for at in range(len(vector))]


def _host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
