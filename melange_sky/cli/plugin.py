"""`melange-sky plugin`: put the plugin and the guard into SkyPilot's files, look at them, take them out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from melange_sky.cli.common import echo_json, format_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.planner.plugin_files import FileChange

config_option = click.option(
    "--server-config",
    type=click.Path(path_type=Path),
    help="The API server's config.yaml or its folder; plugins.yaml lies beside it.  [default: ~/.sky/config.yaml]",
)
yes_option = click.option("-y", "--yes", is_flag=True, help="Skip the confirmation.")


@click.group()
def plugin() -> None:
    """Show fleets in SkyPilot's dashboard, and guard launches, by a plugin of its API server.

    For the machine that runs the API server. Changes are shown as a diff and asked for; other lines of your
    files stay as they are. See `melange-sky help plugin`.
    """


@plugin.command()
@click.argument(
    "plan_dirs", metavar="PLAN-FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--guard",
    type=click.Choice(["off", "warn", "refuse"]),
    help="Check launches against their plans too, and do this: name the guard as SkyPilot's admin_policy, in front of your own.",
)
@click.option(
    "--gateway",
    "gateways",
    multiple=True,
    metavar="FLEET=URL",
    help="A gateway of a fleet, by the plan's name or the fleet's id, whose traffic is shown; give it again for more.",
)
@config_option
@yes_option
def install(
    plan_dirs: tuple[Path, ...],
    guard: str | None,
    gateways: tuple[str, ...],
    server_config: Path | None,
    yes: bool,
) -> None:
    """Name the plugin in plugins.yaml, with the folders of plans that it shows.

    A folder may hold one plan, a reserve, or folders of these; folders given before stay. With --guard, config.yaml
    names the guard.
    """
    from melange_sky.planner.plugin_files import install_changes

    changes = install_changes(plan_dirs, server_config, guard, gateways)
    _carry_out(changes, yes)


@plugin.command()
@config_option
@yes_option
def remove(server_config: Path | None, yes: bool) -> None:
    """Take the plugin and the guard out of both files again; your own policy is back in its place.

    Do this before the package is uninstalled: SkyPilot's server does not start with a plugin that is not there.
    """
    from melange_sky.planner.plugin_files import remove_changes

    _carry_out(remove_changes(server_config), yes)


@plugin.command()
@config_option
@format_option
def status(server_config: Path | None, output_format: str) -> None:
    """Show what the files say of the plugin and the guard."""
    from melange_sky.planner.plugin_files import plugin_status
    from melange_sky.report.plugin import status_document, status_text

    found = plugin_status(server_config)
    if output_format == "json":
        echo_json(status_document(found))
    else:
        click.echo(status_text(found), nl=False)


def _carry_out(changes: Sequence[FileChange], yes: bool) -> None:
    from melange_sky.report.plugin import changes_text, restart_text

    if not changes:
        click.echo("nothing to change", err=True)
        return
    click.echo(changes_text(changes), nl=False)
    if not yes:
        click.confirm("Write these changes?", abort=True, err=True)
    for change in changes:
        change.write()
    click.echo(restart_text(), err=True)
