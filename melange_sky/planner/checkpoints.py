"""The checkpoints that a spec names, read and as the engine will hold them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melange_sky.engines import engine_named
from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.hub.reference import COMMIT
from melange_sky.models import known_name
from melange_sky.planner.model_files import LoadedModel, load_file, load_named

if TYPE_CHECKING:
    from pathlib import Path

    from melange_sky.models import ModelShape
    from melange_sky.planner.request import PlanRequest
    from melange_sky.plans import ModelSource
    from melange_sky.spec import CheckpointChoice, ServedModel, Spec


def spec_model(
    served: ServedModel, spec: Spec, request: PlanRequest
) -> tuple[ModelShape, ModelSource]:
    """Return a model as the spec's engine holds it, and where its sizes were read.

    Raises InputError or SourceUnavailableError that begins with file, line and key of the spec.
    """
    loaded = _loaded(served, spec, request)
    try:
        shape = loaded.held(engine_named(spec.engine.name), spec.engine.args)
    except InputError as error:
        problems = (f"{_where(spec, text)}: {text}" for text in error.problems)
        raise InputError(*problems) from error
    return shape, loaded.source


def _where(spec: Spec, problem: str) -> str:
    """Return file, line and key of the engine's argument that a problem begins with."""
    flags, flag = engine_named(spec.engine.name).flags, problem.partition(":")[0]
    named = [i for i, word in enumerate(spec.engine.args) if flags.name_of(word) == flag]
    if named and named[-1] < len(spec.engine_args_at):
        return spec.engine_args_at[named[-1]]
    return f"{spec.path}: engine.args"


def _loaded(served: ServedModel, spec: Spec, request: PlanRequest) -> LoadedModel:
    choice = served.checkpoints[0]
    revision = _revision(choice, spec)
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


def _revision(choice: CheckpointChoice, spec: Spec) -> str | None:
    """Return the revision that the spec asks for, be it behind the model or among the engine's flags."""
    flags = engine_named(spec.engine.name).flags
    given = flags.values(spec.engine.args, (flags.revision,)).get(flags.revision)
    if given is None or choice.revision == given:
        return choice.revision
    if choice.revision is None:
        return None if known_name(choice.name) else given
    raise InputError(
        f"{choice.where}: asks for revision '{choice.revision}', engine.args for "
        f"{flags.revision} {given[:80]}; leave one of them out"
    )
