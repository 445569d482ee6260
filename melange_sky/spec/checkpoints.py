"""The key `model`: one id of a checkpoint, `org/name` or `org/name@revision`, or several of one model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from melange_sky.engines import model_problem
from melange_sky.errors import InputError
from melange_sky.hub.reference import is_reference, parse_reference
from melange_sky.models import known_name, shipped_checkpoint
from melange_sky.spec.values import CheckpointChoice

if TYPE_CHECKING:
    from melange_sky.spec.problems import Place

LONGEST = 500

_MODEL = re.compile(r"[^\x00-\x1f\x7f]+\Z")


def read_checkpoints(
    given: Any, place: Place, *, own_config: bool
) -> tuple[CheckpointChoice, ...] | None:
    """Return the checkpoints that `model` names, in their order; problems are noted at `place`.

    With `own_config` the name says only what is served: the model's sizes come from the user's file.
    """
    listed = isinstance(given, list)
    names = given if listed else [given]
    found = [
        _read(name, place / i if listed else place, own_config) for i, name in enumerate(names)
    ]
    choices = tuple(choice for choice in found if choice is not None)
    if not names:
        place.add("must not be empty")
    if own_config and len(names) > 1:
        place.add("names several checkpoints, but model_config is the config.json of one")
    seen = [(choice.name.casefold(), choice.revision) for choice in choices]
    for name, revision in sorted({key for key in seen if seen.count(key) > 1}, key=str):
        place.add(f"names '{name}{'@' + revision if revision else ''}' twice")
    return choices if choices and len(choices) == len(names) else None


def _read(name: Any, place: Place, own_config: bool) -> CheckpointChoice | None:
    if not isinstance(name, str):
        place.add("must be a model's id as text (put it in quotes)")
        return None
    if len(name) > LONGEST:
        place.add(f"must be at most {LONGEST} long")
        return None
    if not _MODEL.match(name):
        place.add("must be a model's name without control characters")
        return None
    problem = model_problem(name)
    if problem is not None:
        place.add(problem)
        return None
    if own_config and not is_reference(name):
        return CheckpointChoice(name=name, where=place.text)
    known = None if own_config else known_name(name)
    if known is not None:
        return CheckpointChoice(name=known, where=place.text)
    if not is_reference(name):
        _note_unknown(name, place)
        return None
    reference = parse_reference(name)
    revision = reference.revision if "@" in name else None
    return CheckpointChoice(name=reference.repo, revision=revision, where=place.text)


def _note_unknown(name: str, place: Place) -> None:
    try:
        if "@" in name:
            parse_reference(name)
        shipped_checkpoint(name)
    except InputError as error:
        place.add("; ".join(error.problems))
