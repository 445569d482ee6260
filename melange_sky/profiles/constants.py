"""Read the engine generations and their fitted constants: `profiling/engine_constants.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from melange_sky.errors import InputError, did_you_mean
from melange_sky.resources import profiling_dir
from melange_sky.steps import (
    AllReduce,
    BandClass,
    Efficiency,
    ErrorBand,
    Generation,
    Overheads,
    Products,
    Schedule,
)


@lru_cache(maxsize=1)
def _document() -> dict[str, Any]:
    path = profiling_dir() / "engine_constants.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    generations: dict[str, Any] = document["generations"]
    return generations


def engine_generations() -> tuple[str, ...]:
    """Return the names of the engine generations."""
    return tuple(_document())


@lru_cache(maxsize=16)
def engine_generation(name: str) -> Generation:
    """Return a generation by name; raise InputError for an unknown one."""
    known = _document()
    if name not in known:
        raise InputError(
            f"unknown engine '{name[:40]}'{did_you_mean(name, known)}; known: {', '.join(known)}"
        )
    return parse_generation(name, known[name])


def parse_generation(name: str, entry: Mapping[str, Any]) -> Generation:
    """Turn one entry of the constants file into a Generation."""
    keys = ("schedule", "overheads", "accelerators", "default", "links")
    figures = {key: entry[key] for key in keys if key in entry}
    return Generation(
        name=name,
        schedule=Schedule(**entry["schedule"]),
        overheads=Overheads(**entry["overheads"]),
        efficiencies={
            accelerator: _efficiency(figures)
            for accelerator, figures in entry["accelerators"].items()
        },
        default=_efficiency(entry["default"]),
        band=ErrorBand(**entry["band"]),
        band_default=ErrorBand(**entry["band_default"]),
        note=entry["note"],
        fingerprint=hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:16],
        bands=tuple(
            BandClass(
                band=ErrorBand(low=row["low"], high=row["high"], basis=row["basis"]),
                accelerators=tuple(row.get("accelerators", ())),
                kind=row.get("kind"),
                bits=row.get("bits"),
                split=row.get("split"),
                regime=row.get("regime"),
            )
            for row in entry.get("bands", ())
        ),
        links={
            links: {int(gpus): AllReduce(**row) for gpus, row in rows.items()}
            for links, rows in entry.get("links", {}).items()
        },
    )


def _efficiency(figures: Mapping[str, Any]) -> Efficiency:
    values: dict[str, Any] = {
        key: Products(**value) if isinstance(value, dict) else value
        for key, value in figures.items()
        if key != "source"
    }
    return Efficiency(**values)
