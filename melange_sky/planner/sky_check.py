"""A spec's block `sky` before SkyPilot's own parser, beside the solve; and what is to know of it."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from melange_sky.engines import engine_named
from melange_sky.errors import InputError
from melange_sky.plans import PlanWarning
from melange_sky.rendering import sample_documents
from melange_sky.rendering.sizing import disk_gb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from melange_sky.engines import EngineChoice
    from melange_sky.plans import Plan, SkyFields
    from melange_sky.skyserve.parse import SkyParser
    from melange_sky.spec import Spec

RESERVING, RESERVING_KEYS = ("aws", "gcp"), ("specific_reservations", "prioritize_reservations")

_TAKEN: set[str] = set()
"""Documents that SkyPilot has taken, as JSON."""


def disk_notes(planned: Plan) -> list[PlanWarning]:
    """Warn of disks that the user sized below what system and weights need."""
    notes = {}
    for model in planned.models:
        for allocation in model.allocations:
            option = allocation.candidate.option
            given = (model.sky.of(option).get("resources") or {}).get("disk_size")
            needed = disk_gb(model, option)
            size = _gigabytes(given)
            if size is not None and size < needed:
                notes[model.name, size] = PlanWarning(
                    code="sky",
                    message=f"sky.resources.disk_size: {size:g} GB is less than the {needed} GB that system, engine and "
                    f"weights of {model.model} take",
                )
    return list(notes.values())


def _gigabytes(size: object) -> float | None:
    """Return a disk's size in GB as SkyPilot reads it (a number, or text such as 200GB), None for others."""
    match = re.fullmatch(
        r"(\d+(?:\.\d+)?)\s*(?:([kmgtp])i?b?)?", str(size or "").strip(), re.IGNORECASE
    )
    if match is None:
        return None
    scale = {"k": 1e-6, "m": 1e-3, "g": 1.0, "t": 1e3, "p": 1e6}
    return float(match[1]) * scale[(match[2] or "g").casefold()]


@contextlib.contextmanager
def checked_by_sky(spec: Spec) -> Iterator[list[PlanWarning]]:
    """Check the spec's fields while the body runs; the list holds its warnings at the end.

    Nothing is started for a spec without fields. Raises InputError with what SkyPilot says against them,
    after the body.
    """
    skies = spec.skies
    notes = _notes(spec)
    documents = {
        (at, key): document
        for at, fields in skies.items()
        for key, document in sample_documents(fields, spec.engine.name).items()
    }
    text = json.dumps(list(documents.values()))
    if text in _TAKEN:  # a spec is planned several times where its rate is sought
        documents = {}
    parser = _started(list(documents.values())) if documents else None
    try:
        yield notes
    except BaseException:
        if parser is not None:
            parser.stop()
        raise
    if documents:
        verdicts = None if parser is None else parser.verdicts()
        if verdicts is None:
            notes.append(
                PlanWarning(
                    code="sky",
                    message="sky: SkyPilot could not be asked whether it takes these fields",
                )
            )
            return
        _raise_refused(dict(zip(documents, verdicts, strict=True)))
        _TAKEN.add(text)


def _started(documents: list[dict[str, Any]]) -> SkyParser | None:
    from melange_sky.skyserve.parse import SkyParser  # for specs with fields alone

    return SkyParser.start(documents)


def _raise_refused(verdicts: dict[tuple[str, str | None], str | None]) -> None:
    """Raise what SkyPilot said; what it says of every accelerator is told once."""
    lines = [
        f"{at}{'' if key is None else f'.per_accelerator.{key}'}: SkyPilot refuses it: {said}"
        for (at, key), said in verdicts.items()
        if said is not None and (key is None or said != verdicts[at, None])
    ]
    if lines:
        raise InputError(*lines)


def _config(fields: Mapping[str, Any], cloud: str) -> Mapping[str, Any]:
    """Return what fields configure for a cloud."""
    section = (fields.get("config") or {}).get(cloud)
    return section if isinstance(section, dict) else {}


def _notes(spec: Spec) -> list[PlanWarning]:
    """Return what is to know of the fields, each once."""
    texts = [text for fields in spec.skies.values() for text in _texts(fields, spec.engine)]
    return [PlanWarning(code="sky", message=text) for text in dict.fromkeys(texts)]


def _texts(sky: SkyFields, engine: EngineChoice) -> Iterator[str]:
    for key in sky.restarting:
        yield (
            f"sky.{key}: SkyServe replaces every replica at each `serve update` of such a service, "
            "be it for the number of replicas alone; what lies in sky.volumes or in the image replaces none"
        )
    variants = [fields for _, fields in sky.variants()]
    for cloud in RESERVING:
        for key in RESERVING_KEYS:
            if any(key in _config(fields, cloud) for fields in variants):
                yield (
                    f"sky.config.{cloud}.{key}: SkyPilot reads this from its own configuration alone "
                    "(~/.sky/config.yaml), never from a service's; there the plan counts free nodes"
                )
    brings = any((fields.get("resources") or {}).get("image_id") for fields in variants)
    if brings and engine.version is None:
        version = engine_named(engine.name).default_version
        yield (
            f"sky.resources.image_id: an engine that the image brings is run as it is, and estimates "
            f"are of {engine.name} {version}; engine.version says which one to install or expect"
        )
