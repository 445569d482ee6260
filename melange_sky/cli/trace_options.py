"""How a trace is to be read: the options of every command that takes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def trace_options(of: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds them; `of` names the option that takes the trace, for the help."""
    told = f"How {of} is read: which" if of else "Which"
    options = (
        click.option(
            "--columns",
            metavar="ROLE=NAME,…",
            help=f"{told} column is what, such as time=ts:ms,input=prompt_len,output=n_out,status=code,"
            "session=conv; :s, :ms, :us, :ns, :min or :h behind the time's is its unit. Left away: told by names and values.",
        ),
        click.option(
            "--timezone",
            metavar="ZONE",
            help="Zone of stamps that name none: Europe/Berlin or +02:00.",
        ),
        click.option(
            "--keep-failed",
            is_flag=True,
            help="Count requests that failed or have no output token as demand, too.",
        ),
    )

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add
