"""The key `engine`: which one serves, what is added to its start, and how weights may be held."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from melange_sky.engines import DEFAULT_ENGINE, EngineChoice, choice_problems, engine_named
from melange_sky.errors import InputError, clip, did_you_mean

if TYPE_CHECKING:
    from melange_sky.engines import Engine
    from melange_sky.spec.problems import Place
    from melange_sky.spec.schema import EngineSection

AS_STORED = "none"
"""The word of `engine.quantization` for weights as the checkpoint keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKeys:
    """The engine, and the quantizations to choose among, None for the weights as they are stored.

    One quantization is no choice: it stands among the engine's arguments, behind the `own_args` that
    the section lists.
    """

    choice: EngineChoice
    own_args: int
    quantizations: tuple[str | None, ...] = (None,)


def read_engine(section: EngineSection, place: Place) -> EngineKeys | None:
    """Return what the section says; problems are noted at their keys."""
    choice = EngineChoice(
        name=section.name or DEFAULT_ENGINE.name,
        version=section.version,
        args=tuple(section.args),
        env=tuple(sorted(section.env.items())),
        setup=section.setup,
    )
    try:
        engine = engine_named(choice.name)
    except InputError as error:
        (place / "name").add(str(error))
        return None
    for problem in choice_problems(engine, choice):
        at = place
        for part in problem.path:
            at = at / part
        at.add(problem.what)
    if section.quantization is None:
        return EngineKeys(choice=choice, own_args=len(choice.args))
    return _with_quantizations(section.quantization, choice, engine, place / "quantization")


def _with_quantizations(
    words: list[str], choice: EngineChoice, engine: Engine, place: Place
) -> EngineKeys:
    flag, own_args = engine.flags.quantization, len(choice.args)
    if flag in engine.flags.values(choice.args, (flag,)):
        place.add(f"engine.args give {flag} too; leave one of them out")
    if not words:
        place.add("must not be empty; leave it out to hold weights as the checkpoint keeps them")
    known = (AS_STORED, *sorted(engine.weights.bits))
    for word in words:
        if word not in known:
            place.add(
                f"unknown quantization '{clip(word)}'{did_you_mean(word, known)}; "
                f"known: {', '.join(known)}"
            )
    for word in sorted({word for word in words if words.count(word) > 1}):
        place.add(f"names '{clip(word)}' twice")
    chosen = tuple(None if word == AS_STORED else word for word in words)
    if len(chosen) != 1:
        return EngineKeys(choice=choice, own_args=own_args, quantizations=chosen)
    if chosen[0] is not None:
        choice = replace(choice, args=(*choice.args, flag, chosen[0]))
    return EngineKeys(choice=choice, own_args=own_args)
