"""`melange-sky profile`: measure a running endpoint, or launch jobs that do."""

from __future__ import annotations

import hashlib
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.accelerators import find_accelerator
from melange_sky.cli.common import echo_json, format_option
from melange_sky.cli.profile_jobs import collect, launch, status
from melange_sky.engines import DEFAULT_ENGINE, ENGINES, engine_named
from melange_sky.errors import InputError, SloMissedError
from melange_sky.offers import parse_accelerator
from melange_sky.slo import SLO

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.profiler import Endpoint, GridOptions, GridReport
    from melange_sky.profiletable import Provenance


_BENCH_TOOLS = {engine.bench.name: engine.bench for engine in ENGINES.values() if engine.bench}


def _bench_programs(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for the program of each engine's load generator."""
    for tool in _BENCH_TOOLS.values():
        text = f"The `{tool.program}` command of that check, if it is not on the PATH."
        command = click.option(f"--{tool.program}", help=text)(command)
    return command


@click.group()
def profile() -> None:
    """Measure how many requests a deployment sustains within its SLO."""


@profile.command()
@click.option("--url", required=True, help="Base address of an OpenAI-compatible server.")
@click.option("--model", required=True, help="Name under which the server serves the model.")
@click.option("--accelerator", required=True, help="What the server runs on, such as A10G:1.")
@click.option("--input", "inputs", required=True, help="Prompt sizes in tokens: 64,256,1024.")
@click.option("--output", "outputs", required=True, help="Output sizes in tokens: 16,64.")
@click.option("--tpot-ms", type=float, help="Most milliseconds per output token after the first.")
@click.option("--ttft-ms", type=float, help="Most milliseconds to the first token.")
@click.option(
    "--attainment",
    type=float,
    default=0.95,
    show_default=True,
    help="Fraction of requests that must meet every limit.",
)
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder of the profile tables.")
@click.option(
    "--api-key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    help="Environment variable that holds the server's key.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=120.0,
    show_default=True,
    help="Seconds that one request may take.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after so long; what is measured stays.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.01, max=0.5),
    default=0.12,
    show_default=True,
    help="How closely the highest rate is bracketed.",
)
@click.option(
    "--error-bound",
    type=click.FloatRange(min=0.001, max=1),
    help="Choose among the sizes: measure until the others are known so well, as a fraction.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(min=20),
    default=4000,
    show_default=True,
    help="Most requests of one probe; fewer are quicker and less certain.",
)
@click.option(
    "--prompts",
    type=click.Choice(["ids", "words"]),
    default="ids",
    show_default=True,
    help="Token ids give exact sizes; words suit servers that take none.",
)
@click.option(
    "--prefix-share",
    type=float,
    default=0.0,
    show_default=True,
    help="Fraction of each prompt that all requests have in common.",
)
@click.option(
    "--arrivals",
    type=click.Path(path_type=Path),
    help="A trace whose gaps between requests are used, scaled to each rate; default: Poisson.",
)
@click.option(
    "--max-lateness-ms",
    type=click.FloatRange(min=1),
    default=25.0,
    show_default=True,
    help="A probe in which this client was later than that is void.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--revision", help="Revision of the weights, kept with the table.")
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default=DEFAULT_ENGINE.name,
    show_default=True,
    help="What serves, kept with the table.",
)
@click.option("--engine-flags", default="", help="The server's flags, kept with the table.")
@click.option("--instance-type", help="Where the server runs, kept with the table.")
@click.option(
    "--check-with",
    type=click.Choice(sorted(_BENCH_TOOLS)),
    help="Measure one cell again with an engine's own load generator and report the difference.",
)
@_bench_programs
@click.option("--tokenizer", help="Folder or model id of the tokenizer of that check.")
@format_option
def run(output_format: str, **given: Any) -> None:
    """Measure an endpoint that already runs: the highest rate within the SLO per request size.

    Sizes that were measured before are kept; a run that was interrupted goes on where it stopped.
    """
    from melange_sky.cli import profile_show as show
    from melange_sky.profiler import check_endpoint, measure_grid

    endpoint, options = _endpoint(given), _grid_options(given)
    sizes = [(i, o) for i in _sizes(given, "inputs") for o in _sizes(given, "outputs")]
    provenance = _provenance(given)
    facts = check_endpoint(endpoint, options.style)
    too_long = [s for s in sizes if facts.context_tokens and sum(s) > facts.context_tokens]
    if too_long:
        raise InputError(
            f"{endpoint.shown} takes at most {facts.context_tokens} tokens; "
            f"{too_long[0][0]} + {too_long[0][1]} is more: leave such sizes out"
        )
    report = measure_grid(
        endpoint,
        sizes,
        replace(provenance, engine_version=facts.version),
        _folder(given),
        _with_demand(options, sizes, given["error_bound"]),
        show.progress(),
    )
    check = _cross_check(given, endpoint, report, options.slo)
    if output_format == "json":
        echo_json(show.document(report, options.slo, sizes, check))
    else:
        show.print_report(report, options.slo, sizes, check)
    answers = [found for c in report.table.cells if (found := c.settled(options.slo))]
    if answers and not any(found.max_rate_rps for found in answers):
        raise SloMissedError("no measured size meets the SLO at any rate; the reasons stand above")


def _with_demand(
    options: GridOptions, sizes: list[tuple[int, int]], error_bound: float | None
) -> GridOptions:
    """Let the sizes be chosen while measuring, where a bound is given: all of them weigh alike."""
    from melange_sky.capacity_search import even_demand

    if error_bound is None:
        return options
    return replace(options, demand=even_demand(sizes, error_bound))


def _cross_check(given: dict[str, Any], endpoint: Endpoint, report: GridReport, slo: SLO) -> Any:
    """Check the measured cell of middling rate, where asked and where one has a rate.

    The fastest one would show the clients rather than the server.
    """
    if given["check_with"] is None:
        return None
    from melange_sky.profiler.bench import Bench, cross_check

    rates = {
        (c.input_tokens, c.output_tokens): found.max_rate_rps
        for c in report.table.cells
        if (found := c.settled(slo))
    }
    known = {size: rate for size, rate in rates.items() if rate is not None and size[1] > 1}
    if not known:
        return None
    size = sorted(known, key=lambda key: (known[key], key))[len(known) // 2]
    tool = _BENCH_TOOLS[given["check_with"]]
    bench = Bench(tool=tool, command=given[tool.program], tokenizer=given["tokenizer"])
    return cross_check(endpoint, size, known[size], bench)


def _endpoint(given: dict[str, Any]) -> Endpoint:
    from melange_sky.profiler import Endpoint, ServerPages

    return Endpoint(
        url=given["url"],
        model=given["model"],
        timeout_s=given["timeout_s"],
        api_key=os.environ.get(given["api_key_env"]) or None,
        pages=ServerPages.of(engine_named(given["engine"])),
    )


def _grid_options(given: dict[str, Any]) -> GridOptions:
    from melange_sky.capacity_search import REAL_SEARCH
    from melange_sky.profiler import GridOptions, PromptStyle

    minutes, most = given["max_minutes"], given["max_requests"]
    search = replace(
        REAL_SEARCH,
        tolerance=given["tolerance"],
        seed=given["seed"],
        max_requests=most,
        confirm_requests=min(most, REAL_SEARCH.confirm_requests),
        min_requests=min(most, REAL_SEARCH.min_requests),
    )
    return GridOptions(
        slo=slo_from(given),
        search=search,
        style=PromptStyle(words=given["prompts"] == "words", prefix_share=given["prefix_share"]),
        arrivals_s=_arrivals(given["arrivals"]),
        late_s=given["max_lateness_ms"] / 1e3,
        budget_s=None if minutes is None else minutes * 60,
    )


def _arrivals(trace: Path | None) -> tuple[float, ...]:
    """Return the arrival times of a trace, none for none."""
    if trace is None:
        return ()
    from melange_sky.profiler.prompts import trace_offsets
    from melange_sky.spec.traces import read_trace

    times = tuple(request.arrival_s for request in read_trace(trace))
    trace_offsets(times, 1.0, 1, 0)  # told before any load where it is no stream
    return times


def _arrivals_name(trace: Path | None) -> str:
    """Return what tells a trace from others of its name: the name and its content's short digest."""
    from melange_sky.profiletable import POISSON

    if trace is None:
        return POISSON
    digest = hashlib.sha256(trace.read_bytes()).hexdigest()[:12]
    return f"{trace.name} sha256:{digest}"


def slo_from(given: dict[str, Any]) -> SLO:
    """Return the SLO of the flags; InputError where a limit makes no sense."""
    limits = {}
    for name in ("tpot_ms", "ttft_ms"):
        value = given[name]
        if value is not None and not 0 < value < 1e9:
            raise InputError(f"--{name.replace('_', '-')} must be a positive number")
        limits[name] = None if value is None else value / 1e3
    if not 0 < given["attainment"] <= 1:
        raise InputError("--attainment must be above 0 and at most 1")
    return SLO(tpot_s=limits["tpot_ms"], ttft_s=limits["ttft_ms"], attainment=given["attainment"])


def _sizes(given: dict[str, Any], name: str) -> list[int]:
    flag = {"inputs": "--input", "outputs": "--output"}[name]
    try:
        sizes = [int(word) for word in given[name].split(",") if word.strip()]
    except ValueError:
        sizes = []
    if not sizes or not all(0 < size <= 10_000_000 for size in sizes):
        raise InputError(f"{flag} must be positive whole numbers with commas, such as 64,256")
    return sizes


def _provenance(given: dict[str, Any]) -> Provenance:
    from melange_sky.profiletable import Provenance

    try:
        name, count = parse_accelerator(given["accelerator"])
        flags = tuple(shlex.split(given["engine_flags"]))
        name = find_accelerator(name).name
    except ValueError as error:
        raise InputError(f"--accelerator or --engine-flags: {str(error)[:200]}") from error
    if count is not None and count != int(count):
        raise InputError("--accelerator: a replica needs a whole number of GPUs")
    return Provenance(
        model=given["model"],
        accelerator=name,
        accelerator_count=int(count or 1),
        revision=given["revision"],
        engine=given["engine"],
        engine_flags=flags,
        instance_type=given["instance_type"],
        prefix_share=given["prefix_share"],
        arrivals=_arrivals_name(given["arrivals"]),
    )


def _folder(given: dict[str, Any]) -> Path:
    if given["out"] is not None:
        return Path(given["out"])
    return profiles_home()


def profiles_home() -> Path:
    """Return where profile tables are kept: `$MELANGE_SKY_HOME/profiles`."""
    import platformdirs

    home = os.environ.get("MELANGE_SKY_HOME") or platformdirs.user_data_dir("melange-sky")
    return Path(home) / "profiles"


for command in (launch, status, collect):
    profile.add_command(command)
