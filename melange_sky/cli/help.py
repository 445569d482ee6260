"""`melange-sky help`: the documentation that ships."""

from __future__ import annotations

import sys

import click

WIDEST = 100
"""Columns in which text still reads well."""


def _complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """Return the topics that begin so, for the shell."""
    from melange_sky.help import topics

    return [topic for topic in topics() if topic.startswith(begun)]


@click.command("help")
@click.argument("topic", required=False, shell_complete=_complete)
@click.argument("word", required=False)
@click.pass_context
def help_(context: click.Context, topic: str | None, word: str | None) -> None:
    """Read the documentation: TOPIC, or the list of topics. WORD: only the keys it is part of.

    In colours on a terminal, plain text where it is piped. The name of a command shows its options.
    """
    from melange_sky.help import Style, entries_text, page_text, topics

    if topic is None:
        click.echo("melange-sky help TOPIC, one of:\n")
        width = max(map(len, topics()))
        for name, line in topics().items():
            click.echo(f"  {name:<{width}}  {line}")
        click.echo(
            "\nmelange-sky help spec WORD shows the keys that a word is part of, such as spot;"
        )
        click.echo("melange-sky help COMMAND shows what a command takes.")
        return
    command = _command(context, topic)
    if topic not in topics() and command is not None:
        click.echo(command)
        return
    if word is None:
        _show(page_text(topic, Style.TERMINAL))
    else:
        _show(entries_text(topic, word))


def _command(context: click.Context, name: str) -> str | None:
    """Return the help of a command, None where there is no such command."""
    group = context.parent
    if group is None or not isinstance(group.command, click.Group):
        return None
    command = group.command.get_command(group, name)
    if command is None:
        return None
    return command.get_help(click.Context(command, info_name=name, parent=group))


def _show(text: str) -> None:
    """Print Markdown: on a terminal in styles, through the user's pager where it is long; else plain."""
    from rich.console import Console
    from rich.markdown import Markdown

    is_terminal = sys.stdout.isatty()
    console = Console(color_system="auto" if is_terminal else None, emoji=False)
    with console.capture() as captured:
        console.print(Markdown(text, hyperlinks=False), width=min(console.width, WIDEST))
    shown = "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    if is_terminal and shown.count("\n") >= console.height:
        click.echo_via_pager(shown, color=True)
    else:  # the text is our own: its styles need no filter
        click.echo(shown, nl=False, file=getattr(sys.stdout, "unfiltered", sys.stdout))
