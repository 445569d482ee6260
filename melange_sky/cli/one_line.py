"""The flags of `plan` that stand in place of a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from melange_sky.cli.common import NumberRange
from melange_sky.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = TypeVar("Command", bound=Callable[..., Any])

_POSITIVE = NumberRange(min=0, min_open=True)
_FLAGS: tuple[tuple[str, Any, str], ...] = (
    ("--model", str, "Without SPEC: Hugging Face id, or path of a config.json."),
    ("--rate", _POSITIVE, "Without SPEC: requests per second."),
    ("--input", _POSITIVE, "Without SPEC: mean input tokens of a request."),
    ("--output", str, "Without SPEC: mean output tokens; with one: as -o."),
    ("--input-p95", _POSITIVE, "95th percentile of the input tokens; left away: 2.6 × the mean."),
    ("--output-p95", _POSITIVE, "95th percentile of the output tokens."),
    ("--ttft-ms", _POSITIVE, "Without SPEC: limit of the time to the first token."),
    ("--tpot-ms", _POSITIVE, "Without SPEC: limit of the time per output token after it."),
    ("--attainment", float, "Without SPEC: fraction that meets the limits (default 0.95)."),
    ("--accelerators", str, "Without SPEC: such as L4,A10G,H100:2; left away: all known."),
    ("--infra", str, "Without SPEC: such as aws,gcp/us-central1; left away: all known."),
)


def one_line_options(command: Command) -> Command:
    """Add the flags to a command."""
    for flag, kind, text in reversed(_FLAGS):
        command = click.option(flag, _name(flag), type=kind, default=None, help=text)(command)
    return command


def _name(flag: str) -> str:
    """Return a flag's parameter; the folder that a plan goes to is already called output."""
    return "output_tokens" if flag == "--output" else flag.removeprefix("--").replace("-", "_")


def spec_or_flags(
    spec: Path | None, flags: dict[str, Any]
) -> tuple[Path | dict[str, Any], Path | None]:
    """Take the flags out of a command's and return the spec, or the one that they stand for, told on stderr.

    The second is the folder where ``--output`` names one, as it does with a spec. InputError where both are
    given, or where the flags do not say enough.
    """
    from melange_sky.planner.one_line import OneLine

    given = {name: flags.pop(name) for name in (_name(flag) for flag, *_ in _FLAGS)}
    output = given.pop("output_tokens")
    line = OneLine(**given, output=None if spec is not None else _tokens(output))
    if spec is not None:
        if line.given:
            verb = "belongs" if len(line.given) == 1 else "belong"
            raise InputError(
                f"{', '.join(line.given)} {verb} in the spec: edit {spec}, or leave the spec away"
            )
        return spec, None if output is None else Path(output)
    found = line.spec
    click.echo(line.text, err=True, nl=False)
    return found, None


def _tokens(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return _POSITIVE.convert(text, None, None)
    except click.BadParameter:
        raise InputError(
            f"--output: '{text[:40]}' must be the mean output tokens where no spec is given; -o names the folder"
        ) from None
