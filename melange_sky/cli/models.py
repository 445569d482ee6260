"""`models`: what a model is as it was read, which are known, and fetching one from the Hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from melange_sky.cli.common import echo_json, format_option, offline_option
from melange_sky.settings import home_dir, is_offline

if TYPE_CHECKING:
    from melange_sky.models import Checkpoint


log = logging.getLogger(__name__)


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
    from melange_sky.models import read_model
    from melange_sky.models.document import model_document, model_text

    read = read_model(_checkpoint(model, is_offline(offline)))
    if output_format == "json":
        echo_json(model_document(read))
    else:
        click.echo(model_text(read))


@models.command("list")
@format_option
def list_models(output_format: str) -> None:
    """List the models that need no network: the shipped ones, and those fetched before."""
    from melange_sky.hub.store import ModelStore
    from melange_sky.models import known_models

    kept = ModelStore(home_dir()).kept()
    log.info("%d models shipped, %d kept in %s", len(known_models()), len(kept), home_dir())
    if output_format == "json":
        rows = [{"model": name, "revision": None, "source": "shipped"} for name in known_models()]
        rows += [
            {"model": repo, "revision": commit, "source": f"Hub, {revision}"}
            for repo, revision, commit in kept
        ]
        echo_json(rows)
        return
    for name in known_models():
        click.echo(name)
    for repo, revision, commit in kept:
        click.echo(f"{repo}@{revision}  (fetched, commit {commit[:12]})")


@models.command()
@click.argument("model", metavar="ID[@REVISION]")
@offline_option
def pull(model: str, offline: bool) -> None:
    """Fetch what says what a model is from the Hub and keep it, so that plans need no network."""
    from melange_sky.hub.models import as_checkpoint
    from melange_sky.hub.models import pull as pull_model
    from melange_sky.hub.reference import parse_reference
    from melange_sky.models import read_model
    from melange_sky.models.document import model_text

    reference = parse_reference(model)
    log.info("asking the Hub for %s", reference)
    kept = pull_model(reference, home_dir(), offline=is_offline(offline))
    click.echo(
        f"{kept.repo}: kept {', '.join(sorted(kept.files))} of commit {kept.commit}", err=True
    )
    click.echo(model_text(read_model(as_checkpoint(kept))))


def _checkpoint(model: str, offline: bool) -> Checkpoint:
    """Return the files of a model named by path, by a known id, or by an id of the Hub."""
    from melange_sky.models import known_name, shipped_checkpoint

    path = Path(model)
    if model.endswith(".json") or path.exists():
        from melange_sky.models.config_file import read_local

        log.info("%s: a file of yours", path)
        return read_local(path)
    if known_name(model) is not None:
        log.info("%s: shipped, no network is used", model)
        return shipped_checkpoint(model)
    from melange_sky.hub.reference import is_reference, parse_reference

    if not is_reference(model):
        return shipped_checkpoint(model)  # which says what is known
    from melange_sky.hub.models import load_checkpoint

    log.info("%s: a model of the Hub, looked for in %s first", model, home_dir())
    return load_checkpoint(parse_reference(model), home_dir(), offline=offline)
