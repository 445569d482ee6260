"""The user's own profile tables: which of them speak of a replica, and what must be told of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from melange_sky.engines import DEFAULT_ENGINE, ENGINES
from melange_sky.profiles.home import home_dir

if TYPE_CHECKING:
    from melange_sky.engines import Engine
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
        if is_of(made, query.model.name, shape) and is_usable(
            made, query.engine, query.engine_args
        ):
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
        if not any(is_of(made, query.model.name, shape) for shape in wanted):
            continue
        what = f"of {query.model.name} on {made.accelerator}:{made.accelerator_count}"
        if not made.is_poisson:
            notes.add(
                f"profile tables {what} measured with the arrivals of a trace ({made.arrivals[:120]}) are "
                "left out: planning assumes Poisson arrivals"
            )
        elif made.engine not in (None, query.engine.name):
            notes.add(
                f"profile tables {what} measured with {_title(made)} are left out: the plan serves with "
                f"{query.engine.title}"
            )
        elif not is_usable(made, query.engine, query.engine_args):
            flags = (
                " ".join(query.engine.form(made.engine_flags))
                or "no flags that change the weights' form"
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


def is_of(made: Provenance, model: str, shape: ReplicaShape) -> bool:
    """Return whether a table is of this model on such a replica."""
    splits = (
        (made.tensor_parallel, shape.tensor_parallel),
        (made.data_parallel, shape.data_parallel),
    )
    return (
        made.model.casefold().rpartition("/")[2] == model.casefold().rpartition("/")[2]
        and made.accelerator.casefold() == shape.accelerator.casefold()
        and made.accelerator_count == shape.gpus
        and all(given in (None, wanted) for given, wanted in splits)
    )


def is_usable(made: Provenance, engine: Engine, engine_args: Sequence[str]) -> bool:
    """Return whether plans with this engine and these arguments may rest on a table.

    It was measured under Poisson arrivals, with weights and KV cache held in the same form. A table
    that names no engine counts as one of the plan's own.
    """
    return (
        made.is_poisson
        and made.engine in (None, engine.name)
        and engine.form(made.engine_flags) == engine.form(engine_args)
    )


def _title(made: Provenance) -> str:
    known = ENGINES.get(made.engine or DEFAULT_ENGINE.name)
    return str(made.engine)[:40] if known is None else known.title
