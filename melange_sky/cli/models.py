"""`melange-sky models`: what a model is as it was read, which are known, fetching one from the Hub."""

from __future__ import annotations

import click

from melange_sky.cli.common import echo_json, format_option, offline_option


@click.group()
def models() -> None:
    """Show what a model is, list the known ones, fetch one from the Hugging Face Hub.

    \b
    The Hub's own variables are honoured: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE.
    Only small files are fetched (config, index, header), never weights, and nothing is executed.
    """


@models.command()
@click.argument("model", metavar="ID|CONFIG.json")
@format_option
@offline_option
def show(model: str, output_format: str, offline: bool) -> None:
    """Show a model as it was read: parameters, weights, KV cache, layers, what was assumed.

    A shipped model or a file needs no network; another id is fetched from the Hub once and kept.
    """
    from melange_sky.planner.models import show_model
    from melange_sky.report.models import model_document, model_text

    read = show_model(model, offline=offline)
    if output_format == "json":
        echo_json(model_document(read))
    else:
        click.echo(model_text(read))


@models.command("list")
@format_option
def list_(output_format: str) -> None:
    """List the models that need no network: the shipped ones, and those fetched before."""
    from melange_sky.planner.models import list_models
    from melange_sky.report.models import list_document, list_text

    known = list_models()
    if output_format == "json":
        echo_json(list_document(known))
    else:
        click.echo(list_text(known), nl=False)


@models.command()
@click.argument("model", metavar="ID[@REVISION]")
@offline_option
def pull(model: str, offline: bool) -> None:
    """Fetch what says what a model is from the Hub and keep it, so that plans need no network."""
    from melange_sky.planner.models import pull_model
    from melange_sky.report.models import model_text, pulled_note

    pulled = pull_model(model, offline=offline)
    click.echo(pulled_note(pulled), err=True)
    click.echo(model_text(pulled.read))
