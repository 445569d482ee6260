"""The user's own profile tables: which of them speak of a replica, and what must be told of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.errors import InputError
from melange_sky.models import form_args, with_engine_args
from melange_sky.profiles.home import home_dir

if TYPE_CHECKING:
    from melange_sky.profiles.query import CapacityQuery, ReplicaShape
    from melange_sky.profiletable import MeasuredCell, ProfileTable, Provenance

SUFFIX = ".profile.jsonl"


def measured_tables(folder: Path | None = None) -> tuple[ProfileTable, ...]:
    """Return the tables of `<home>/profiles`, none (and nothing imported) where there are none."""
    folder = home_dir() / "profiles" if folder is None else folder
    if not folder.is_dir() or not any(folder.glob("*" + SUFFIX)):
        return ()
    stamps = tuple(sorted((p, p.stat().st_mtime_ns) for p in folder.glob("*" + SUFFIX)))
    return _load(folder, stamps)


@lru_cache(maxsize=4)
def _load(folder: Path, stamps: tuple[tuple[Path, int], ...]) -> tuple[ProfileTable, ...]:
    from melange_sky.profiletable import load_tables

    return load_tables(folder)


def matching(
    tables: Sequence[ProfileTable], query: CapacityQuery, shape: ReplicaShape
) -> list[MeasuredCell]:
    """Return the cells of this model on this replica under Poisson arrivals, the later of two."""
    found: dict[tuple[int, int], MeasuredCell] = {}
    for table in tables:
        made = table.provenance
        if _is_of(made, query, shape) and made.is_poisson and _same_form(made, query):
            for cell in table.cells:
                key = (cell.input_tokens, cell.output_tokens)
                if key not in found or cell.measured_at >= found[key].measured_at:
                    found[key] = cell
    return list(found.values())


def table_notes(query: CapacityQuery, shapes: Iterable[ReplicaShape]) -> tuple[str, ...]:
    """Return a sentence for each kind of table of these replicas that is left out, or only used with care."""
    if not query.measured:
        return ()
    wanted, notes = list(shapes), set()
    for table in measured_tables():
        made = table.provenance
        if not any(_is_of(made, query, shape) for shape in wanted):
            continue
        what = f"of {query.model.name} on {made.accelerator}:{made.accelerator_count}"
        if not made.is_poisson:
            notes.add(
                f"profile tables {what} measured with the arrivals of a trace ({made.arrivals[:120]}) are "
                "left out: planning assumes Poisson arrivals"
            )
        elif not _same_form(made, query):
            flags = (
                " ".join(form_args(made.engine_flags)) or "no flags that change the weights' form"
            )
            notes.add(
                f"profile tables {what} measured with {flags[:120]} are left out: the model is planned in "
                "another form (engine.args of the spec and --engine-flags of the profile differ)"
            )
        elif made.prefix_share:
            notes.add(
                f"measured capacities {what} are of prompts that share {made.prefix_share:.0%} of their "
                "tokens: they hold only for traffic that does so too"
            )
    return tuple(sorted(notes))


def _is_of(made: Provenance, query: CapacityQuery, shape: ReplicaShape) -> bool:
    splits = (
        (made.tensor_parallel, shape.tensor_parallel), (made.data_parallel, shape.data_parallel)
    )  # fmt: skip
    return (
        made.model.casefold().rpartition("/")[2] == query.model.name.casefold().rpartition("/")[2]
        and made.accelerator.casefold() == shape.accelerator.casefold()
        and made.accelerator_count == shape.gpus
        and all(given in (None, wanted) for given, wanted in splits)
    )


def _same_form(made: Provenance, query: CapacityQuery) -> bool:
    """Whether the server that was measured held weights and cache in the form that is asked for."""
    asked = query.model
    try:
        held = with_engine_args(query.checkpoint or asked, form_args(made.engine_flags))
    except InputError:  # a form that is not known here
        return False
    return (held.dtype, held.weight_dtype_bytes, held.kv_dtype_bytes, held.fp8_compute) == (
        asked.dtype, asked.weight_dtype_bytes, asked.kv_dtype_bytes, asked.fp8_compute
    )  # fmt: skip
