"""A model as it was read, for programs and for people: what `models show` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from melange_sky.models.checkpoint import ReadModel


def model_document(read: ReadModel) -> dict[str, Any]:
    """Return what a model is as plain values, ready for JSON.

    Bytes of the cache are for 16 bits; `kv_bytes_per_token` is the growth per token of a long
    sequence, beyond every sliding window.
    """
    layers, scheme = read.layers, read.scheme
    return {
        "model": read.checkpoint.name,
        "revision": read.checkpoint.revision,
        "architecture": layers.architecture,
        "parameters": layers.parameters,
        "active_parameters": layers.active_parameters,
        "parameters_by_part": layers.parameters_by_part(),
        "weight_bytes": round(read.file_bytes),
        "loaded_weight_bytes": round(read.sizes.resident_bytes),
        "weight_bytes_by_format": {
            name: round(size) for name, size in read.sizes.by_format.items()
        },
        "kv_bytes_per_token": _whole(layers.kv_bytes_per_token),
        "kv_bytes_at_context": _whole(layers.kv_bytes(layers.context_tokens)),
        "state_bytes_per_sequence": layers.state_bytes_per_sequence,
        "context_tokens": layers.context_tokens,
        "layers": [{"kind": kind, "count": number} for kind, number in layers.kinds()],
        "vision": _tower(read, "vision"),
        "audio": _tower(read, "audio"),
        "quantization": _quantization(read),
        "dtype": scheme.dtype,
        "files": dict(read.checkpoint.files),
        "assumptions": list(layers.assumptions),
        "warnings": list(read.warnings),
    }


def _whole(value: float) -> int | float:
    return int(value) if float(value).is_integer() else round(value, 3)


def _tower(read: ReadModel, kind: str) -> dict[str, Any] | None:
    for tower in read.layers.towers:
        if tower.kind == kind:
            return {"parameters": tower.parameters, "estimated": tower.estimated}
    return None


def _quantization(read: ReadModel) -> dict[str, Any] | None:
    scheme = read.scheme
    if not scheme.method:
        return None
    return {
        "method": scheme.method,
        "read_from": scheme.section,
        "formats": sorted(name for name in read.sizes.by_format if name != scheme.dtype),
        "kv_cache": scheme.kv_cache,
        "kv_cache_fp8": scheme.kv_cache == "fp8",
    }


def model_text(read: ReadModel) -> str:
    """Return what a model is in lines for people."""
    return "\n".join(_lines(model_document(read)))


def _lines(document: dict[str, Any]) -> Iterator[str]:
    revision = f" at {document['revision'][:12]}" if document["revision"] else ""
    yield f"{document['model']}{revision}: {document['architecture']}"
    rows = [
        (
            "parameters",
            f"{_billions(document['parameters'])}, active {_billions(document['active_parameters'])}",
        ),
        ("weights", f"{document['weight_bytes'] / 1e9:.2f} GB{_formats(document)}"),
        (
            "KV cache",
            f"{document['kv_bytes_per_token'] / 1024:.4g} KiB per token beyond every window, 16 bits",
        ),
        ("context", f"{document['context_tokens']} tokens"),
    ]
    if document["state_bytes_per_sequence"]:
        rows.append(
            ("state", f"{document['state_bytes_per_sequence'] / 2**20:.1f} MiB per sequence")
        )
    rows += [
        (kind, _billions(document[kind]["parameters"]))
        for kind in ("vision", "audio")
        if document[kind] is not None
    ]
    if document["quantization"] is not None:
        rows.append(("quantization", document["quantization"]["method"]))
    rows += [("layers", f"{row['count']} × {row['kind']}") for row in document["layers"]]
    rows += [("assumed", text) for text in document["assumptions"]]
    rows += [("warning", text) for text in document["warnings"]]
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        yield f"{label.ljust(width)}  {text}"


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"


def _formats(document: dict[str, Any]) -> str:
    sizes = document["weight_bytes_by_format"]
    if len(sizes) < 2:
        return f" ({next(iter(sizes))})" if sizes else ""
    return " (" + ", ".join(f"{size / 1e9:.1f} {name}" for name, size in sizes.items()) + ")"
