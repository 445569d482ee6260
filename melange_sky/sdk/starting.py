"""What a plan starts from: a starter spec, a trace's workload, what a model is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.models import ReadModel
from melange_sky.planner import models as work
from melange_sky.planner.workloads import TraceWorkload, count_trace, write_starter
from melange_sky.report.models import list_text, model_text, pulled_note
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melange_sky.sdk.arguments import AnyPath


class CountedTrace(Shown, TraceWorkload):
    """A trace's `histogram`; `section` is what stands under `workload` in a spec. Prints as YAML."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.yaml


class Model(Shown, ReadModel):
    """A model's `layers`, the formats of its weights (`scheme`) and their `sizes`; printed in lines."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{model_text(self)}\n"


class Fetched(Shown, work.FetchedModel):
    """A fetched model as it was `read`, and the `files` of its `commit`; printed in lines."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{pulled_note(self)}\n{model_text(self.read)}\n"


class KnownModels(Shown, tuple[work.KnownModel, ...]):
    """The models that need no network; printed a line each."""

    __slots__ = ()

    def __str__(self) -> str:
        return list_text(self)


def init(file: AnyPath = "spec.yaml", *, force: bool = False) -> Path:
    """Write a commented starter spec.

    Args:
        file: Where to write it.
        force: Replace the file if it is there.

    Returns:
        The file.

    Raises:
        InputError: The file is there, or cannot be written.
    """
    path = Path(file)
    write_starter(path, force=force)
    return path


def trace_workload(
    trace: AnyPath | Sequence[AnyPath],
    *,
    input_edges: str | Sequence[int] | None = None,
    output_edges: str | Sequence[int] | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
) -> CountedTrace:
    """Count a request trace by size: `plan({…, "workload": trace_workload(file).section})`.

    Args:
        trace: A log of requests, as gateways, engines and observability tools write it; several files
            are one trace.
        input_edges: Bucket edges of input tokens, "0,25,100" or a list; None for the usual ones.
        output_edges: Bucket edges of output tokens, in the same form.
        columns: Which column is what, "time=ts:ms,input=n_in,output=n_out" or a mapping; None for told
            by names and values.
        timezone: Zone of stamps that name none, such as "Europe/Berlin".
        keep_failed: Count requests that failed or have no output token as demand, too.

    Returns:
        The histogram with each bucket's mean size, the mean rate, and how much lies beyond the grid.

    Raises:
        InputError: The trace cannot be read, or the edges do not rise.
    """
    several = [trace] if isinstance(trace, str | os.PathLike) else trace
    paths = tuple(map(Path, several))
    counted = count_trace(
        paths,
        input_edges=input_edges,
        output_edges=output_edges,
        columns=columns,
        timezone=timezone,
        keep_failed=keep_failed,
    )
    return as_result(CountedTrace, counted)


def show_model(model: str, *, offline: bool = False) -> Model:
    """Return a model as it was read: parameters, weights, KV cache, layers, what was assumed.

    Args:
        model: Path of a config.json (or its folder), a known id, or ORG/NAME[@REVISION] of the Hub.
        offline: Open no socket; a file and a shipped model need none.

    Returns:
        The layers, the formats and bytes of the weights, and warnings.

    Raises:
        InputError: The model is unknown or cannot be read right; the message names the field.
        SourceUnavailableError: It is not kept here and the Hub cannot be reached.
    """
    return as_result(Model, work.show_model(model, offline=offline))


def list_models() -> KnownModels:
    """Return the models that need no network: the shipped ones, then those fetched before.

    Returns:
        A `KnownModel` each; `commit` is None for a shipped one.
    """
    return KnownModels(work.list_models())


def pull_model(model: str, *, offline: bool = False) -> Fetched:
    """Fetch what says what a model is from the Hub and keep it, so that plans need no network.

    Args:
        model: ORG/NAME[@REVISION].
        offline: Open no socket: refused, as fetching needs the network.

    Returns:
        The model as it was read, and which files of which commit are kept.

    Raises:
        InputError: It is no id, or what was fetched cannot be read.
        SourceUnavailableError: The Hub cannot be reached, or refuses.
    """
    return as_result(Fetched, work.pull_model(model, offline=offline))
