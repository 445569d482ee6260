"""Plans of earlier versions: a model as one figure for all layers, read as layers that are alike."""

from __future__ import annotations

from typing import Any


def with_groups(document: Any) -> Any:
    """Return the document of a model's sizes with its layers by kinds, as today's plans have them."""
    if not isinstance(document, dict) or "groups" in document:
        return document
    try:
        return {**document, **_sizes(document)}
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return document  # what is wrong with it is told by the key that it lacks


def _sizes(old: dict[str, Any]) -> dict[str, Any]:
    layers, size = old["layers"], old["weight_dtype_bytes"]
    lookup, experts = old["lookup_parameters"], old["expert_parameters"]
    cached = old["kv_values_per_token"] / layers
    window = old.get("sliding_window")
    sliding = 0 if window is None else (old.get("sliding_layers") or layers)
    dense = (old["parameters"] - lookup - experts) // layers
    each = {
        "heads": old["heads"],
        "kv_heads": old["kv_heads"],
        "pair_flops": _per_layer(old, 4 * old["heads"] * old["head_dim"]),
        "decode_flops": _per_layer(old, 4 * old["heads"] * old["head_dim"]),
        "state_bytes": old.get("state_bytes_per_sequence", 0) // layers,
        "routed": old.get("experts") or 0,
        "experts_per_token": old.get("experts_per_token") or 0,
        "dense": _weights(dense, size),
        "experts": _weights(experts // layers, size),
    }
    full = {**each, "count": layers - sliding, "kv_values": cached}
    windowed = {**each, "count": sliding, "window_values": round(cached), "window": window}
    return {
        "groups": [group for group in (full, windowed) if group["count"]],
        "head": _weights(0, size),
        "lookup": _weights(lookup, size),
    }


def _per_layer(old: dict[str, Any], usual: int) -> int:
    known = old.get("attention_flops_per_pair")
    return usual if known is None else int(known) // int(old["layers"])


def _weights(parameters: int, size: float) -> dict[str, float]:
    return {"linear": parameters, "linear_bytes": parameters * size}
