"""What a spec chooses of its engine, and which of these texts a service can carry.

The same checks run when a spec is read, which adds file and line, and when a plan is rendered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.engines.flags import FlagTable

DEFAULT_NAME = "vllm"

_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*(\+[a-zA-Z0-9.]+)?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIALS?)\Z", re.IGNORECASE
)
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """Which engine serves, and what the user's spec adds to it: version, flags, environment, setup."""

    name: str = DEFAULT_NAME
    version: str | None = None
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    setup: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceProblem:
    """Why a choice cannot be carried: `path` leads to the text within the spec's `engine`."""

    path: tuple[str | int, ...]
    what: str

    def __str__(self) -> str:
        path = "engine"
        for part in self.path:
            path += f"[{part}]" if isinstance(part, int) else f".{part[:_LONGEST_NAME]}"
        return f"{path}: {self.what}"


class CheckedEngine(Protocol):
    """What of an engine decides which texts it can carry, see `engines.base.Engine`."""

    @property
    def default_version(self) -> str: ...
    @property
    def flags(self) -> FlagTable: ...
    def value_problem(self, flag: str, value: str) -> str | None: ...


def choice_problems(engine: CheckedEngine, choice: EngineChoice) -> Iterator[ChoiceProblem]:
    """Yield everything in a choice that no service of this engine can carry."""
    if choice.version is not None and not _VERSION.fullmatch(choice.version):
        what = f"must be a version such as {engine.default_version}"
        yield ChoiceProblem(path=("version",), what=what)
    texts: list[tuple[tuple[str | int, ...], str | None]] = []
    for name, value in choice.env:
        texts += [(("env", name), name_problem(name)), (("env", name), text_problem(value))]
    for i, word in enumerate(choice.args):
        texts += [(("args", i), text_problem(word)), (("args", i), engine.flags.refusal(word))]
    read = {engine.flags.length, *engine.flags.form}
    for i, flag, value in engine.flags.given(choice.args, read):
        texts.append((("args", i), engine.value_problem(flag, value)))
    if choice.setup is not None:
        texts.append((("setup",), text_problem(choice.setup)))
    for path, problem in texts:
        if problem is not None:
            yield ChoiceProblem(path=path, what=problem)


def check_choice(engine: CheckedEngine, choice: EngineChoice) -> None:
    """Raise InputError with every problem of a choice."""
    problems = [str(problem) for problem in choice_problems(engine, choice)]
    if problems:
        raise InputError(*problems)


def model_problem(name: str) -> str | None:
    """Return why a model's name cannot stand on a command line, None where it can.

    >>> model_problem("--help")
    "must not be empty or start with '-'"
    """
    if not name.strip() or name.startswith("-"):
        return "must not be empty or start with '-'"
    return text_problem(name)


def text_problem(text: str) -> str | None:
    """Return why a shell or a YAML file cannot carry a text, None where both can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "holds text that is not valid Unicode"
    return "holds a NUL character" if "\0" in text else None


def name_problem(name: str) -> str | None:
    """Return why a service cannot set an environment variable of that name, None where it can."""
    if not _ENV_NAME.fullmatch(name):
        return "is not the name of an environment variable"
    if name.startswith("SKYPILOT_"):
        return "belongs to SkyPilot"
    if _SECRET_NAME.search(name):
        return (
            "is a secret: leave it out of the spec and pass it with "
            f"--secret {name[:_LONGEST_NAME]}"
        )
    return None
