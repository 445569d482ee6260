"""`melange-sky report`: a folder's result as one HTML file."""

from __future__ import annotations

from pathlib import Path

import click

from melange_sky.cli.written import check_written, write_page


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="File to write; an earlier report there is replaced.",
)
def report(folder: Path, output: Path) -> None:
    """Write the plan or the reservation in DIR as one HTML file: figures, tables, the origin of every number.

    The file needs nothing else, neither a network nor scripts: mail it, open it offline, print it. DIR may be
    a plan.json or a reserve.json, too. How prices moved is drawn from the pulls kept here.
    """
    from melange_sky.planner.plan_files import load_plan
    from melange_sky.planner.price_history import price_histories
    from melange_sky.planner.saved_results import saved_reservation
    from melange_sky.report.html import plan_page, reserve_page

    check_written(html=output)
    reservation = saved_reservation(folder)
    if reservation is not None:
        write_page(output, reserve_page(reservation))
        return
    planned = load_plan(folder)
    write_page(output, plan_page(planned, price_histories(planned)))
