"""`melange-sky capacity`: how many requests per second each option sustains, and at what cost."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from melange_sky.cli.capacity_show import document_of, print_matrices
from melange_sky.cli.common import echo_json, estimating
from melange_sky.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from melange_sky.models import ModelShape
    from melange_sky.profiles import CapacityQuery, ReplicaCapacity, ReplicaShape
    from melange_sky.slo import SLO

LARGEST_TOKENS = 10_000_000
MOST_SIZES = 64


@click.command()
@click.option(
    "--model", required=True, help="Hugging Face id of a known model, or path of a config.json."
)
@click.option(
    "--accelerators", required=True, help="Such as L4,A10G:2,H100 (a bare name: one GPU)."
)
@click.option("--input", "inputs", required=True, help="Input tokens, such as 25,100,1000.")
@click.option("--output", "outputs", required=True, help="Output tokens, such as 25,100.")
@click.option("--tpot-ms", type=float, help="Limit of the time per output token after the first.")
@click.option("--ttft-ms", type=float, help="Limit of the time to the first token.")
@click.option(
    "--attainment",
    type=float,
    default=0.95,
    show_default=True,
    help="Fraction that meets the limits.",
)
@click.option("--engine", default="vllm", show_default=True, help="Engine generation.")
@click.option("--quantization", help="As vLLM's flag: fp8, awq, gptq, …")
@click.option("--dtype", help="As vLLM's flag.")
@click.option("--kv-cache-dtype", help="As vLLM's flag.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "heatmap"]),
    default="table",
    show_default=True,
)
@click.option(
    "--write-table",
    type=click.Path(path_type=Path),
    help="Add estimates to a file that plans read.",
)
def capacity(**given: Any) -> None:
    """Show the highest request rate of each option at exactly the given request sizes."""
    query, shapes = _query(given)
    if given["write_table"] is not None:
        _write_table(given["write_table"], query, shapes)
        return
    options = _answers(query, shapes)
    document = document_of(given, query, options)
    if given["output_format"] == "json":
        echo_json(document)
    else:
        print_matrices(document, heat=given["output_format"] == "heatmap")


def _query(given: dict[str, Any]) -> tuple[CapacityQuery, dict[str, list[ReplicaShape]]]:
    """Turn options into a query, and each asked accelerator into its sensible splits."""
    from melange_sky.profiles import CapacityQuery, engine_generation

    inputs, outputs = _sizes("--input", given["inputs"]), _sizes("--output", given["outputs"])
    engine_generation(given["engine"])
    model, args = _model(given)
    longest = max(inputs) + max(outputs)
    if longest > model.context_tokens:
        click.echo(
            f"warning: {longest} tokens exceed the context of {model.context_tokens} of {model.name}; "
            "computed as if it were longer",
            err=True,
        )
        model = dataclasses.replace(model, context_tokens=longest)
    query = CapacityQuery(
        model=model,
        slo=_slo(given),
        input_sizes=tuple(tuple(float(i) for _ in outputs) for i in inputs),
        output_sizes=tuple(tuple(float(o) for o in outputs) for _ in inputs),
        longest_request_tokens=longest,
        generation=given["engine"],
        exact=True,
        engine_args=args,
    )
    return query, _shapes(model, given["accelerators"], given["engine"])


def _model(given: dict[str, Any]) -> tuple[ModelShape, tuple[str, ...]]:
    """Return the model as the asked flags let vLLM hold it, and those flags."""
    from melange_sky.models import with_engine_args
    from melange_sky.profiles import load_model

    name = given["model"]
    path = Path(name)
    is_file = name.endswith(".json") or (
        path.exists() and (path.is_file() or (path / "config.json").is_file())
    )
    model = load_model(name, path if is_file else None)
    args = []
    for flag in ("quantization", "dtype", "kv_cache_dtype"):
        if given[flag] is not None:
            args += ["--" + flag.replace("_", "-"), given[flag]]
    return with_engine_args(model, args, own_config=is_file), tuple(args)


def _sizes(flag: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > MOST_SIZES:
        raise InputError(f"{flag}: at most {MOST_SIZES} sizes")
    sizes = []
    for part in parts:
        if not (part.isascii() and part.isdigit() and 0 < int(part[:20]) <= LARGEST_TOKENS):
            raise InputError(
                f"{flag}: '{part[:30]}' is not a number of tokens between 1 and {LARGEST_TOKENS}"
            )
        sizes.append(int(part))
    return sizes


def _slo(given: dict[str, Any]) -> SLO:
    from melange_sky.slo import SLO

    limits: dict[str, float | None] = {}
    for name in ("tpot_ms", "ttft_ms"):
        value = given[name]
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(
                f"--{name.replace('_', '-')}: must be a positive number of milliseconds"
            )
        limits[name.replace("_ms", "_s")] = None if value is None else value / 1e3
    if not 0 < given["attainment"] <= 1:
        raise InputError("--attainment: must lie above 0 and be at most 1")
    return SLO(**limits, attainment=given["attainment"])


def _shapes(model: ModelShape, text: str, engine: str) -> dict[str, list[ReplicaShape]]:
    """Return, per asked option, its splits; one that does not fit stands for the reason."""
    from melange_sky.names.accelerators import find_accelerator
    from melange_sky.offers import parse_accelerator
    from melange_sky.profiles import ReplicaShape, sensible_splits

    shapes = {}
    for asked in (part.strip() for part in text.split(",")):
        try:
            name, count = parse_accelerator(asked)
        except ValueError as error:
            raise InputError(f"--accelerators: {error}") from error
        spec = find_accelerator(name)
        gpus = int(count or 1)
        if count is not None and count != gpus:
            raise InputError(f"--accelerators: {asked[:60]}: a part of a GPU cannot hold a replica")
        if gpus > 64:
            raise InputError(f"--accelerators: {asked[:60]}: at most 64 GPUs in one replica")
        splits = sensible_splits(model, spec, gpus, engine) or ((gpus, 1),)
        label = spec.name if count is None else f"{spec.name}:{gpus}"
        shapes[label] = [
            ReplicaShape(accelerator=spec.name, tensor_parallel=tp, data_parallel=dp)
            for tp, dp in splits
        ]
    return shapes


def _answers(
    query: CapacityQuery, shapes: dict[str, list[ReplicaShape]]
) -> dict[str, ReplicaCapacity]:
    """Return each option's best split: the one that serves most sizes, then the most requests."""
    from melange_sky.profiles import replica_capacities, table_notes

    flat = [shape for group in shapes.values() for shape in group]
    for note in table_notes(query, flat):
        click.echo(f"warning: {note}", err=True)
    with estimating() as advance:
        asked = dataclasses.replace(query, progress=advance)
        found = dict(zip(flat, replica_capacities(asked, flat), strict=True))
    best = {label: max((found[s] for s in group), key=_merit) for label, group in shapes.items()}
    if all(option.settings is None for option in best.values()):
        reasons = dict.fromkeys(option.reason or "does not fit" for option in best.values())
        raise InfeasibleError("no asked option fits: " + "; ".join(reasons))
    return best


def _merit(option: ReplicaCapacity) -> tuple[int, float]:
    rates = [c.max_rate_rps for row in option.cells for c in row if c.max_rate_rps is not None]
    return len(rates), sum(math.log(rate) for rate in rates)


def _write_table(path: Path, query: CapacityQuery, shapes: dict[str, list[ReplicaShape]]) -> None:
    """Write simulated ÷ analytic rates of every split, with the command that made them."""
    from melange_sky.profiles import embedded_tables, write_table

    grid = (
        [int(row[0]) for row in query.input_sizes],
        [int(size) for size in query.output_sizes[0]],
    )
    with estimating() as advance:
        engines = [s for group in shapes.values() for s in group if s.data_parallel == 1]
        tables = embedded_tables(dataclasses.replace(query, progress=advance), engines)
    words = [
        word if word and word.isascii() and not set(word) & set(" '\"$") else repr(word)
        for word in sys.argv[1:]
    ]
    try:
        write_table(path, " ".join(["melange-sky", *words]), grid, tables)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be written as a table of estimates: {error}") from error
    click.echo(f"{len(tables)} tables written to {path}", err=True)
