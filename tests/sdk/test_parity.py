"""The command line's options and Python's parameters: the same names, the same defaults."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import click
import pytest

import melange_sky
from melange_sky.cli import COMMANDS, cli

SHOWN = frozenset({"output_format", "output", "html", "figure"})
"""How a command prints and where it writes: Python has the result itself."""


@dataclass(frozen=True)
class Pair:
    """A command and the functions that do the same. `flags` and `names` are only on one side, and why."""

    command: str
    functions: tuple[str, ...]
    flags: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    other_words: dict[str, str] = field(default_factory=dict)


NO_FETCH = frozenset(
    {"offline"}
)  # these commands never fetch; scripts may give the flag all the same
ASKS = frozenset({"yes"})  # Python does not ask
IN_PLACE_OF_A_SPEC = frozenset(  # from Python, a spec is a dict
    [
        "model",
        "rate",
        "input",
        "output_tokens",
        "input_p95",
        "output_p95",
        "ttft_ms",
        "tpot_ms",
        "attainment",
        "accelerators",
        "infra",
    ]
)
TELLS = frozenset({"on_event"})  # the command line prints events

PAIRS = (
    Pair("plan", ("plan",), flags=frozenset({"force"}) | IN_PLACE_OF_A_SPEC),  # force: of `write`
    Pair("render", ("write",)),
    Pair("init", ("init",)),
    Pair("workload", ("trace_workload",)),
    Pair("models show", ("show_model",)),
    Pair("models list", ("list_models",)),
    Pair("models pull", ("pull_model",)),
    Pair("simulate", ("simulate",)),
    Pair("explain", ("explain",), flags=frozenset({"everything"})),  # how much is printed
    Pair("sweep", ("sweep",)),
    Pair("compare", ("compare",)),
    Pair("report", ("html_report",)),
    Pair("reserve", ("reservation",), flags=frozenset({"force"})),  # of the result's `write`
    Pair("bound", ("bound",)),
    Pair("watch", ("watch",), flags=frozenset({"explain", "cron"}), names=TELLS),  # of files
    Pair("schedule", ("schedule",), names=TELLS),
    Pair("capacity", ("capacity",), flags=frozenset({"write_table"})),  # makes what ships
    Pair("prices list", ("prices",), flags=NO_FETCH),
    Pair("prices terms", ("price_terms",), flags=NO_FETCH),
    Pair("prices cluster", ("cluster_offers",)),
    Pair("prices refresh", ("refresh_prices",)),
    Pair("prices check", ("check_prices",)),
    Pair("prices snapshots", ("price_snapshots",)),
    Pair("prices diff", ("diff_prices", "diff_plan"), flags=NO_FETCH),
    Pair(
        "profile run",
        ("profile",),
        flags=frozenset({"quick", "inputs", "outputs"}),  # needed unless quick
        names=frozenset({"inputs", "outputs"}),
        other_words={"bench_command": "vllm"},
    ),
    Pair("profile learn", ("learn_profile",)),
    Pair("profile launch", ("launch_profile",), flags=ASKS),
    Pair("profile status", ("profile_status",)),
    Pair("profile collect", ("collect_profile",)),
    Pair("apply", ("apply",), flags=ASKS, names=TELLS),
    Pair("status", ("status",)),
    Pair("plugin install", ("install_plugin",), flags=ASKS),
    Pair("plugin status", ("plugin_status",)),
    Pair("plugin remove", ("remove_plugin",), flags=ASKS),
    Pair("down", ("down",), flags=ASKS, names=TELLS),
    Pair(
        "gateway",
        ("serve",),
        flags=frozenset({"export", "force"}),  # write files of another program
        names=frozenset({"on_start"}),  # the command line prints it
        other_words={"from_sky": "sky", "body_bytes": "body_limit"},
    ),
)
READS = {"help"}
"""Commands that show text which ships: from Python, the site and docstrings do."""
ONLY_FILES = {"verify", "load", "render", "table"}
"""Functions that stand for a flag of `plan`, or for reading and showing what commands write."""


def command_of(path: str) -> click.Command:
    context, command = click.Context(cli), cli
    for word in path.split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        assert found is not None
        command = found
    return command


def options_of(pair: Pair) -> dict[str, click.Option]:
    options = [p for p in command_of(pair.command).params if isinstance(p, click.Option)]
    return {str(p.name): p for p in options if p.name not in {*SHOWN, *pair.flags}}


def parameters_of(pair: Pair) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters, and those of several functions together."""
    found: dict[str, inspect.Parameter] = {}
    for name in pair.functions:
        for parameter in inspect.signature(getattr(melange_sky, name)).parameters.values():
            if (
                parameter.kind is inspect.Parameter.KEYWORD_ONLY
                and parameter.name not in pair.names
            ):
                found.setdefault(parameter.name, parameter)
    if "diff_plan" in pair.functions:  # its plan is an argument there, a flag here
        found["plan"] = inspect.Parameter("plan", inspect.Parameter.KEYWORD_ONLY, default=None)
    return found


def test_every_command_and_every_function_has_its_other_side() -> None:
    commands = {pair.command.split()[0] for pair in PAIRS}
    assert commands | READS == set(COMMANDS)
    for group in ("prices", "profile", "models", "plugin"):
        held = command_of(group)
        assert isinstance(held, click.Group)
        here = {pair.command for pair in PAIRS if pair.command.startswith(group + " ")}
        assert {f"{group} {name}" for name in held.commands} == here
    functions = {name for pair in PAIRS for name in pair.functions}
    assert functions | ONLY_FILES == set(melange_sky.__all__)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.command)
def test_options_have_the_parameters_names_and_defaults(pair: Pair) -> None:
    options, parameters = options_of(pair), parameters_of(pair)
    assert set(options) == set(parameters)
    for name, option in options.items():
        default = parameters[name].default
        if option.required:
            assert default is inspect.Parameter.empty, name
        else:
            given = () if option.multiple and option.default is None else option.default
            assert default == given and type(default) is type(given), name


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.command)
def test_a_parameter_is_its_flag_with_a_unit_at_most(pair: Pair) -> None:
    for name, option in options_of(pair).items():
        flag = next(text for text in option.opts if text.startswith("--"))
        words = pair.other_words.get(name) or name
        assert words.startswith(flag.removeprefix("--").replace("-", "_")), name


def test_verify_takes_what_plan_takes() -> None:
    plan = inspect.signature(melange_sky.plan).parameters
    for name, parameter in inspect.signature(melange_sky.verify).parameters.items():
        assert plan[name].default == parameter.default
