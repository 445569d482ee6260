"""Measure an endpoint that already runs: what `profile run` does."""

from __future__ import annotations

import hashlib
import itertools
import logging
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from melange_sky import settings
from melange_sky.capacity_search import REAL_SEARCH, even_demand
from melange_sky.engines import DEFAULT_ENGINE, bench_named, engine_named
from melange_sky.errors import InputError
from melange_sky.planner.figures import replica_gpus, slo_of, token_sizes
from melange_sky.profiler import (
    Endpoint,
    GridOptions,
    Progress,
    PromptStyle,
    ServerPages,
    check_endpoint,
    found_in_a_load,
    measure_grid,
)
from melange_sky.profiler.bench import Bench, cross_check
from melange_sky.profiler.prompts import trace_offsets
from melange_sky.profiletable import POISSON, MeasuredReuse, Provenance
from melange_sky.spec.demand import load_distribution
from melange_sky.traces import trace_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from melange_sky.profiler import GridReport
    from melange_sky.profiler.bench import CrossCheck
    from melange_sky.reuse import Reuse
    from melange_sky.slo import SLO

__all__ = ["MeasureOptions", "Measurement", "Progress", "measure_endpoint"]

log = logging.getLogger(__name__)

MOST_LOST = 0.1
"""So much less of the prompts' tokens may be found in a probe than the file of `--reuse` tells."""

Size = tuple[int, int]
"""Input and output tokens."""


@dataclass(frozen=True, kw_only=True)
class MeasureOptions:
    """What to measure on which server, and how hard: the flags of `profile run`, by their names.

    `out` None is the profile store. The server's key is read from the variable `api_key_env`.
    `engine`, `revision`, `engine_flags` and `instance_type` are kept with the table.
    """

    url: str
    model: str
    accelerator: str
    inputs: str | Sequence[int]
    outputs: str | Sequence[int]
    tpot_ms: float | None = None
    ttft_ms: float | None = None
    attainment: float = 0.95
    out: Path | None = None
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: float = 120.0
    max_minutes: float | None = None
    tolerance: float = 0.12
    error_bound: float | None = None
    max_requests: int = 4000
    prompts: str = "ids"
    prefix_share: float = 0.0
    reuse: Path | None = None
    arrivals: Path | None = None
    max_lateness_ms: float = 25.0
    seed: int = 0
    revision: str | None = None
    engine: str = DEFAULT_ENGINE.name
    engine_flags: str = ""
    instance_type: str | None = None
    check_with: str | None = None
    bench_command: str | None = None
    tokenizer: str | None = None

    @cached_property
    def sizes(self) -> tuple[Size, ...]:
        """Every pair of input and output tokens; InputError for what is no number of tokens."""
        outputs = token_sizes("--output", self.outputs)
        return tuple((i, o) for i in token_sizes("--input", self.inputs) for o in outputs)

    @cached_property
    def slo(self) -> SLO:
        """The limits; InputError where one makes no sense."""
        return slo_of(self.tpot_ms, self.ttft_ms, self.attainment)

    @cached_property
    def shared(self) -> Reuse | None:
        """What prompts are to share; InputError where the file does not tell."""
        if self.reuse is None:
            return None
        found = load_distribution(self.reuse).reuse
        if found is None:
            raise InputError(
                f"{self.reuse}: has no workload.reuse; `workload TRACE -o FILE` writes it where the trace tells "
                "sessions or block ids, and so does `gateway --observed FILE`"
            )
        return found

    @property
    def endpoint(self) -> Endpoint:
        """The server; its key stays out of every message, file and repr."""
        return Endpoint(
            url=self.url,
            model=self.model,
            timeout_s=self.timeout_s,
            api_key=settings.secret(self.api_key_env),
            pages=ServerPages.of(engine_named(self.engine)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured: the report over `sizes`, the SLO, and another client's word where asked."""

    report: GridReport
    slo: SLO
    sizes: tuple[Size, ...]
    check: CrossCheck | None = None

    @property
    def meets_slo(self) -> bool:
        """Whether any measured size has a rate within the SLO, or none is settled yet."""
        answers = [a for c in self.report.table.cells if (a := c.settled(self.slo))]
        return not answers or any(answer.max_rate_rps for answer in answers)


def measure_endpoint(options: MeasureOptions, progress: Progress | None = None) -> Measurement:
    """Measure the highest rate within the SLO per request size; `progress` hears of every size.

    Sizes that were measured before are kept; a run that was interrupted goes on where it stopped.
    Raises InputError for wrong use, SourceUnavailableError where the server cannot be reached.
    """
    endpoint, grid, sizes = options.endpoint, _grid_options(options), options.sizes
    check_distances(options, grid.search.confirm_requests)
    provenance = _provenance(options)
    log.info("%d sizes to measure at %s, SLO %s", len(sizes), endpoint.shown, options.slo)
    facts = check_endpoint(endpoint, grid.style)
    log.info("%s serves %s, engine version %s", endpoint.shown, options.model, facts.version)
    _check_context(sizes, facts.context_tokens, endpoint.shown)
    report = measure_grid(
        endpoint,
        sizes,
        replace(provenance, engine_version=facts.version),
        options.out or settings.profiles_dir(),
        grid,
        progress,
    )
    log.info(
        "%d sizes measured, %d kept, %d left; table %s",
        len(report.measured),
        len(report.kept),
        len(report.unmeasured),
        report.path,
    )
    check = _cross_check(options, endpoint, report)
    return Measurement(report=report, slo=options.slo, sizes=sizes, check=check)


def _check_context(sizes: Sequence[Size], context_tokens: int | None, server: str) -> None:
    too_long = [size for size in sizes if context_tokens and sum(size) > context_tokens]
    if too_long:
        raise InputError(
            f"{server} takes at most {context_tokens} tokens; "
            f"{too_long[0][0]} + {too_long[0][1]} exceeds that: leave such sizes out"
        )


def _cross_check(
    options: MeasureOptions, endpoint: Endpoint, report: GridReport
) -> CrossCheck | None:
    """Check the measured cell of middling rate, where asked and where one has a rate.

    The fastest one would show the clients rather than the server.
    """
    if options.check_with is None:
        return None
    rates = {
        (c.input_tokens, c.output_tokens): answer.max_rate_rps
        for c in report.table.cells
        if (answer := c.settled(options.slo))
    }
    able = {size: rate for size, rate in rates.items() if rate is not None and size[1] > 1}
    if not able:
        return None
    size = sorted(able, key=lambda key: (able[key], key))[len(able) // 2]
    bench = Bench(
        tool=bench_named(options.check_with),
        command=options.bench_command,
        tokenizer=options.tokenizer,
    )
    return cross_check(endpoint, size, able[size], bench)


def check_distances(options: MeasureOptions, requests: int) -> None:
    """Raise InputError where prompts would go on with ones from before a probe of so many requests."""
    if options.shared is None:
        return
    for size in options.sizes:
        found, due = found_in_a_load(options.shared, size, requests)
        if due - found > MOST_LOST:
            enough = REAL_SEARCH.confirm_requests
            more = f"--max-requests {enough}, " if requests < enough else ""
            raise InputError(
                f"{options.reuse}: its sessions come back too late for a probe of {requests} requests: prompts of "
                f"{size[0]} tokens would find {found:.0%}, not {due:.0%}; give {more}larger --input sizes, or a file "
                "with shorter stack distances"
            )


def _grid_options(options: MeasureOptions) -> GridOptions:
    """Return how hard to measure; with an error bound all sizes weigh alike and are chosen among."""
    bound, minutes, most = options.error_bound, options.max_minutes, options.max_requests
    search = replace(
        REAL_SEARCH,
        tolerance=options.tolerance,
        seed=options.seed,
        max_requests=most,
        confirm_requests=min(most, REAL_SEARCH.confirm_requests),
        min_requests=min(most, REAL_SEARCH.min_requests),
    )
    return GridOptions(
        slo=options.slo,
        demand=None if bound is None else even_demand(options.sizes, bound),
        search=search,
        style=prompt_style(options),
        arrivals_s=_arrivals(options.arrivals),
        late_s=options.max_lateness_ms / 1e3,
        budget_s=None if minutes is None else minutes * 60,
    )


def prompt_style(options: MeasureOptions) -> PromptStyle:
    """Return how prompts are made; InputError for what does not go together."""
    return PromptStyle(
        words=options.prompts == "words", prefix_share=options.prefix_share, reuse=options.shared
    )


def _arrivals(trace: Path | None) -> tuple[float, ...]:
    """Return the arrival times of a trace, none for none; InputError before any load is sent."""
    if trace is None:
        return ()
    blocks = (block.arrival_s.tolist() for block in trace_blocks(trace))
    times = tuple(itertools.chain.from_iterable(blocks))
    trace_offsets(times, 1.0, 1, 0)
    return times


def _arrivals_name(trace: Path | None) -> str:
    """Return what tells a trace from others of its name: the name and its content's short digest."""
    if trace is None:
        return POISSON
    digest = hashlib.sha256(trace.read_bytes()).hexdigest()[:12]
    return f"{trace.name} sha256:{digest}"


def _provenance(options: MeasureOptions) -> Provenance:
    name, gpus = replica_gpus(options.accelerator)
    try:
        flags = tuple(shlex.split(options.engine_flags))
    except ValueError as error:
        raise InputError(f"--engine-flags: {str(error)[:200]}") from error
    return Provenance(
        model=options.model,
        accelerator=name,
        accelerator_count=gpus,
        revision=options.revision,
        engine=engine_named(options.engine).name,
        engine_flags=flags,
        instance_type=options.instance_type,
        prefix_share=options.prefix_share,
        reuse=None if options.shared is None else MeasuredReuse.of(options.shared),
        arrivals=_arrivals_name(options.arrivals),
    )
