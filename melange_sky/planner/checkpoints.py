"""The forms in which a spec's model may be held: its checkpoints, and what the engine makes of each."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.hub.reference import COMMIT
from melange_sky.models import known_name
from melange_sky.models.config import with_images
from melange_sky.planner.model_files import LoadedModel, load_file, load_named
from melange_sky.plans import ModelForm, PlanWarning

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from melange_sky.models import ModelShape
    from melange_sky.planner.request import PlanRequest
    from melange_sky.spec import CheckpointChoice, ServedModel, Spec


def spec_forms(
    served: ServedModel, spec: Spec, request: PlanRequest
) -> tuple[tuple[ModelForm, ...], tuple[PlanWarning, ...]]:
    """Return every form of a model to choose among, and what is none of them.

    The first checkpoint as it is stored has the name "": its options are named as without a choice.
    Raises InputError or SourceUnavailableError that begins with file, line and key of the spec.
    """
    loaded = [_loaded(choice, served, spec, request) for choice in served.checkpoints]
    _check_one_model(served, loaded)
    labels = form_labels(served.checkpoints, spec.quantizations)
    forms: list[ModelForm] = []
    warnings: list[PlanWarning] = []
    for choice, model, label in zip(served.checkpoints, loaded, labels, strict=True):
        for word in spec.quantizations:
            if word is not None and None in spec.quantizations and not model.shape.is_plain:
                text = f"{choice.name}: its weights are kept as {model.shape.dtype} already, so {word} is no choice"
                warnings.append(PlanWarning(code="form", message=text))
                continue
            forms.append(_form(form_name(label, word), choice, model, word, spec))
    forms = [replace(form, shape=_seeing(form.shape, served)) for form in forms]
    return tuple(forms), tuple(warnings)


def _form(
    name: str, choice: CheckpointChoice, model: LoadedModel, word: str | None, spec: Spec
) -> ModelForm:
    engine = engine_named(spec.engine.name)
    flag = engine.flags.quantization
    args = spec.engine.args if word is None else (*spec.engine.args, flag, word)
    try:
        shape = model.held(engine, args)
    except InputError as error:
        what = "" if len(spec.models) == 1 else f"{choice.name}: "
        problems = (f"{_where(spec, text)}: {what}{text}" for text in error.problems)
        raise InputError(*problems) from error
    return ModelForm(
        name=name, checkpoint=choice.name, quantization=word, shape=shape, source=model.source
    )


def _seeing(shape: ModelShape, served: ServedModel) -> ModelShape:
    """Return a model with the images that its workload asks for; refuse them where it sees none."""
    images = served.workload.images
    if images is None:
        return shape
    if "vision" not in shape.inputs:
        raise InputError(
            f"{served.images_at}: {served.model[:80]} takes no images: its config describes no vision "
            "encoder; leave images out"
        )
    return with_images(shape, images.tokens)


def _where(spec: Spec, problem: str) -> str:
    """Return file, line and key of the engine's argument that a problem begins with."""
    flags, flag = engine_named(spec.engine.name).flags, problem.partition(":")[0]
    if flag == flags.quantization and spec.quantization_where is not None:
        return spec.quantization_where
    named = [i for i, word in enumerate(spec.engine.args) if flags.name_of(word) == flag]
    if named and named[-1] < len(spec.engine_args_at):
        return spec.engine_args_at[named[-1]]
    return f"{spec.path}: engine.args"


def _check_one_model(served: ServedModel, loaded: Sequence[LoadedModel]) -> None:
    """Raise InputError where a checkpoint is not of the same model as the first."""
    first = loaded[0].read.layers
    for choice, model in zip(served.checkpoints, loaded, strict=True):
        layers = model.read.layers
        for what, one, other in (
            ("layers", len(first.layers), len(layers.layers)),
            ("hidden size", first.hidden_size, layers.hidden_size),
            ("vocabulary", first.vocabulary, layers.vocabulary),
        ):
            if one != other:
                raise InputError(
                    f"{choice.where}: {choice.name} is no checkpoint of {served.model}: {what} {other} "
                    f"against {one}; list another model under models"
                )


def form_labels(
    choices: Sequence[CheckpointChoice], words: Sequence[str | None]
) -> tuple[str, ...]:
    """Return what tells the checkpoints apart in options' names, "" for the first.

    What a name has beyond that of the first is enough, unless two forms would be named alike.
    """
    short = ("", *(_beyond(choice, choices[0]) for choice in choices[1:]))
    names = [form_name(label, word) for label in short for word in words]
    if len(set(names)) == len(names):
        return short
    return ("", *(_slug(f"{c.name}-{c.revision or ''}") for c in choices[1:]))


def _beyond(choice: CheckpointChoice, first: CheckpointChoice) -> str:
    name, base = choice.name.rpartition("/")[2], first.name.rpartition("/")[2]
    longer = name.casefold().startswith(base.casefold()) and len(name) > len(base)
    return _slug(f"{name[len(base) :] if longer else name}-{choice.revision or ''}")


def form_name(label: str, word: str | None) -> str:
    """Return the end of the options' names of one checkpoint with one quantization."""
    return "-".join(part for part in (label, word and _slug(word)) if part)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def _loaded(
    choice: CheckpointChoice, served: ServedModel, spec: Spec, request: PlanRequest
) -> LoadedModel:
    revision = _revision(choice, served, spec)
    if served.model_config is not None:
        return _own_file(served.model_config, choice)
    try:
        return load_named(choice.name, revision, offline=request.prices.forbids_network)
    except MelangeError as error:
        kind = InputError if isinstance(error, InputError) else SourceUnavailableError
        raise kind(f"{choice.where}: {error}") from error


def _own_file(path: Path, choice: CheckpointChoice) -> LoadedModel:
    """Return the model of the user's own file; replicas then run the commit that the spec names."""
    loaded = load_file(path, choice.name)
    if choice.revision is None:
        return loaded
    if not COMMIT.fullmatch(choice.revision):
        raise InputError(
            f"{choice.where}: '{choice.revision}' is not a commit of 40 hex digits, and with model_config "
            "nothing is asked of the Hub; give the commit, or leave model_config out"
        )
    return replace(loaded, source=replace(loaded.source, revision=choice.revision))


def _revision(choice: CheckpointChoice, served: ServedModel, spec: Spec) -> str | None:
    """Return the revision that the spec asks for, be it behind the model or among the engine's flags."""
    flags = engine_named(spec.engine.name).flags
    given = flags.values(spec.engine.args, (flags.revision,)).get(flags.revision)
    if given is None or choice.revision == given:
        return choice.revision
    if len(served.checkpoints) > 1:
        raise InputError(
            f"{choice.where}: engine.args give {flags.revision} to every checkpoint; write it behind the "
            f"one that it is of: {choice.name}@{given[:80]}"
        )
    if choice.revision is None:
        return None if known_name(choice.name) else given
    raise InputError(
        f"{choice.where}: asks for revision '{choice.revision}', engine.args for "
        f"{flags.revision} {given[:80]}; leave one of them out"
    )
