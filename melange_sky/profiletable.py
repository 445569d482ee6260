"""Measured capacity tables on disk: the one format that the profiler writes and planning reads.

A table is a file `*.profile.jsonl`: one JSON object per line, the first saying what was measured
(model, accelerator, engine, machine), each other one cell (a request size) with every probe's raw
points. `profiling/README.md` documents the keys. The file is replaced as a whole after every cell,
so that it is complete at any moment.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from melange_sky.capacity_search import (
    REAL_SEARCH,
    MeasuredRate,
    SearchOptions,
    SearchResult,
    rate_from_probes,
)
from melange_sky.errors import InputError
from melange_sky.settings import PROFILE_SUFFIX
from melange_sky.slo import SLO, RequestLog

if TYPE_CHECKING:
    from melange_sky.reuse import Reuse

SCHEMA = "melange-sky-profile/1"
POISSON = "poisson"
LIKE_HITS, LIKE_DISTANCE = 0.05, 2.0
"""Reuse is of the like within this part of all prompt tokens, and this factor of its distances."""
MAX_TABLE_BYTES = 512 * 1024 * 1024

_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What values of a wrong kind, size or place raise where they are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredReuse:
    """What the prompts of a table shared: the figures by which a workload's prompts are of the like.

    `infinite_hit` is what an endless cache finds of them, half of that within `distance_tokens`; None where
    no distances were told.
    """

    infinite_hit: float
    shared_prefix_tokens: int
    distance_tokens: int | None = None
    session_turns: float | None = None

    @classmethod
    def of(cls, reuse: Reuse) -> MeasuredReuse:
        """Return the figures of a workload's reuse."""
        half = reuse.infinite_hit / 2
        within = next((t for t, found in reuse.stack_distance if found >= half), None)
        turns = reuse.session_turns
        return cls(
            infinite_hit=round(reuse.infinite_hit, 3),
            shared_prefix_tokens=reuse.shared_prefix_tokens,
            distance_tokens=within,
            session_turns=None if turns is None else round(turns.mean, 2),
        )

    def is_like(self, other: MeasuredReuse) -> bool:
        """Return whether rates measured with one hold for the other: as many found, as soon."""
        if abs(self.infinite_hit - other.infinite_hit) > LIKE_HITS:
            return False
        pairs = (
            (self.distance_tokens, other.distance_tokens),
            (self.session_turns, other.session_turns),
        )
        known = [pair for pair in pairs if pair != (None, None)]
        return all(
            one is not None
            and two is not None
            and max(one, two, 1) <= LIKE_DISTANCE * max(min(one, two), 1)
            for one, two in known
        )

    def __str__(self) -> str:
        within = (
            "" if self.distance_tokens is None else f", half within {self.distance_tokens} tokens"
        )
        return f"{self.infinite_hit:.0%} found by an endless cache{within}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What was measured, on what. None where unknown.

    `weight_bytes` are those that the engine holds, which tell two quantizations of one name apart;
    `accelerator` without count; `engine_flags` as on the command line, secrets left out;
    `gpu_name` and `gpu_driver` as the machine itself reports them; `prefix_share` is the fraction of
    each prompt that all requests have in common (0: nothing can be answered from a prefix cache);
    `reuse` is what they share of a workload's, None where nothing such was asked for;
    `arrivals`: ``poisson``, or the trace whose gaps were used: its file's name and short digest.
    """

    model: str
    accelerator: str
    accelerator_count: int
    tensor_parallel: int | None = None
    data_parallel: int | None = None
    pipeline_parallel: int | None = None
    expert_parallel: bool | None = None
    revision: str | None = None
    weight_bytes: int | None = None
    engine: str | None = None
    engine_version: str | None = None
    engine_flags: tuple[str, ...] = ()
    gpu_name: str | None = None
    gpu_driver: str | None = None
    cloud: str | None = None
    region: str | None = None
    instance_type: str | None = None
    prefix_share: float = 0.0
    reuse: MeasuredReuse | None = None
    arrivals: str = POISSON
    created_at: str | None = None

    @property
    def is_poisson(self) -> bool:
        """Whether arrivals were Poisson: planning assumes these, and reads no other rates."""
        return self.arrivals == POISSON


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeptProbe:
    """One probe's raw points and what the server said of itself meanwhile.

    `verdict` and `reason` are for the SLO of the search that sent it. `server` holds averages and
    peaks by name (`running_mean`, `waiting_max`, `kv_use_max`, `preemptions`, …). `lateness_max_s`
    is how late the client sent its latest request.
    """

    rate_rps: float
    seed: int
    verdict: str
    reason: str
    log: RequestLog
    lateness_max_s: float | None = None
    server: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredCell:
    """One request size. `max_rate_rps` answers `slo`, None with a reason where no rate passes."""

    input_tokens: int
    output_tokens: int
    slo: SLO
    max_rate_rps: float | None
    reason: str
    resolved: bool
    low_rps: float | None
    high_rps: float | None
    knee_rps: float | None
    seconds: float
    measured_at: str
    probes: tuple[KeptProbe, ...] = ()

    def known(self, slo: SLO, options: SearchOptions | None = None) -> MeasuredRate:
        """Return the answer with what tells how sure it is."""
        found = self.answer(slo, options)
        lasted = [_turnovers(p.log) for p in self.probes if len(p.log)]
        return MeasuredRate(
            rate_rps=found.max_rate_rps,
            low_rps=found.low_rps,
            high_rps=found.high_rps,
            turnovers=max(lasted, default=MeasuredRate(rate_rps=None).turnovers),
        )

    def settled(self, slo: SLO, options: SearchOptions | None = None) -> SearchResult | None:
        """Return the answer, None where probes of a search for another SLO leave it open."""
        found = self.answer(slo, options)
        return found if found.resolved or slo == self.slo else None

    def answer(self, slo: SLO, options: SearchOptions | None = None) -> SearchResult:
        """Return the rate for any SLO: as searched where it is the same, else from the raw points."""
        if slo == self.slo:
            return SearchResult(
                max_rate_rps=self.max_rate_rps,
                reason=self.reason,
                resolved=self.resolved,
                low_rps=self.low_rps,
                high_rps=self.high_rps,
                knee_rps=self.knee_rps,
            )
        kept = [(p.rate_rps, p.log) for p in self.probes if len(p.log)]
        return rate_from_probes(kept, slo, options or REAL_SEARCH)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProfileTable:
    """All that was measured of one model on one accelerator with one engine setting."""

    provenance: Provenance
    cells: tuple[MeasuredCell, ...] = ()
    path: Path | None = None

    def cell(self, input_tokens: int, output_tokens: int) -> MeasuredCell | None:
        """Return the cell of exactly this size, None where it was not measured."""
        for cell in self.cells:
            if (cell.input_tokens, cell.output_tokens) == (input_tokens, output_tokens):
                return cell
        return None


def load_tables(folder: Path) -> tuple[ProfileTable, ...]:
    """Read every table of a folder in order of name; none where the folder does not exist."""
    if not folder.is_dir():
        return ()
    return tuple(read_table(path) for path in sorted(folder.glob("*" + PROFILE_SUFFIX)))


def read_table(path: Path) -> ProfileTable:
    """Read one table. Raises InputError naming file and line where it is not one."""
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise InputError(f"{path}: larger than {MAX_TABLE_BYTES} bytes, not a profile table")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a profile table: {error}") from error
    return parse_table(lines, str(path), path)


def parse_table(lines: Sequence[str], where: str, path: Path | None = None) -> ProfileTable:
    """Read a table's lines; `where` names their source in the InputError of wrong ones."""
    number = 1
    try:
        head = json.loads(lines[0]) if lines else {}
        if not isinstance(head, dict) or head.get("schema") != SCHEMA:
            raise ValueError(f"its first line does not say schema {SCHEMA}")
        provenance = _provenance(head["provenance"])
        cells = []
        for number, line in enumerate(lines[1:], start=2):  # noqa: B007 - named in the message
            cells.append(_cell(json.loads(line)))
    except _DAMAGE as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)[:200]
        raise InputError(
            f"{where}: line {number} is not a profile table's ({what}); "
            f"measure again, or move the file away"
        ) from error
    return ProfileTable(provenance=provenance, cells=tuple(cells), path=path)


def table_text(table: ProfileTable) -> str:
    """Return a table as it stands in its file."""
    rows: list[dict[str, Any]] = [{"schema": SCHEMA, "provenance": asdict(table.provenance)}]
    rows += [_cell_row(cell) for cell in table.cells]
    return "".join(json.dumps(r, allow_nan=False, separators=(",", ":")) + "\n" for r in rows)


def write_table(table: ProfileTable, path: Path) -> None:
    """Write a table as a whole: to a temporary file, flushed to disk, then put in place."""
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(table_text(table))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _provenance(row: Mapping[str, Any]) -> Provenance:
    known = {f.name for f in fields(Provenance)}
    values = {key: value for key, value in row.items() if key in known}
    values["engine_flags"] = tuple(str(flag) for flag in values.get("engine_flags", ()))
    values["accelerator_count"] = int(values["accelerator_count"])
    if values.get("reuse") is not None:
        values["reuse"] = MeasuredReuse(**values["reuse"])
    return Provenance(**values)


def _cell_row(cell: MeasuredCell) -> dict[str, Any]:
    row = {f.name: getattr(cell, f.name) for f in fields(MeasuredCell)}
    row["slo"] = asdict(cell.slo)
    row["probes"] = [_probe_row(p) for p in cell.probes]
    return row


def _cell(row: Mapping[str, Any]) -> MeasuredCell:
    values = {f.name: row[f.name] for f in fields(MeasuredCell)}
    values["slo"] = SLO(**{f.name: row["slo"][f.name] for f in fields(SLO)})
    values["probes"] = tuple(_probe(p) for p in row["probes"])
    for name in ("input_tokens", "output_tokens"):
        values[name] = int(values[name])
    for name in ("max_rate_rps", "low_rps", "high_rps", "knee_rps"):
        rate = values[name]
        if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise ValueError(f"{name} is not a positive number")
    return MeasuredCell(**values)


def _probe_row(probe: KeptProbe) -> dict[str, Any]:
    log = probe.log
    start = float(log.arrival_s[0]) if len(log) else 0.0
    return {
        "rate_rps": probe.rate_rps,
        "seed": probe.seed,
        "verdict": probe.verdict,
        "reason": probe.reason,
        "lateness_max_s": probe.lateness_max_s,
        "server": dict(probe.server) if probe.server is not None else None,
        "arrival_us": _micros(log.arrival_s - start),
        "ttft_us": _micros(log.ttft_s),
        "e2e_us": _micros(log.e2e_s),
        "input_tokens": _short(log.input_tokens),
        "output_tokens": _short(log.output_tokens),
        "failed": np.flatnonzero(~log.ok).tolist(),
    }


def _probe(row: Mapping[str, Any]) -> KeptProbe:
    arrival_s = _seconds(row["arrival_us"])
    count = arrival_s.shape[0]
    first, last = _seconds(row["ttft_us"]), _seconds(row["e2e_us"])
    if first.shape[0] != count or last.shape[0] != count:
        raise ValueError("the columns of a probe differ in length")
    ok = np.ones(count, dtype=np.bool_)
    ok[np.array(row["failed"], dtype=np.int64)] = False
    log = RequestLog(
        arrival_s=arrival_s,
        first_token_s=arrival_s + first,
        last_token_s=arrival_s + last,
        input_tokens=np.broadcast_to(np.array(row["input_tokens"], dtype=np.int64), count),
        output_tokens=np.broadcast_to(np.array(row["output_tokens"], dtype=np.int64), count),
        ok=ok,
        option=np.full(count, -1, dtype=np.int64),
    )
    return KeptProbe(
        rate_rps=float(row["rate_rps"]),
        seed=int(row["seed"]),
        verdict=str(row["verdict"]),
        reason=str(row["reason"]),
        log=log,
        lateness_max_s=row["lateness_max_s"],
        server=row["server"],
    )


def _turnovers(log: RequestLog) -> float:
    """Return over how many median answers requests arrived."""
    done = log.e2e_s[log.ok]
    median = float(np.median(done)) if done.size else 0.0
    return float(log.arrival_s[-1] - log.arrival_s[0]) / median if median > 0 else 0.0


def _micros(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[int | None]:
    """Seconds to whole microseconds, NaN to None."""
    return [None if math.isnan(v) else round(v * 1e6) for v in values.tolist()]


def _seconds(values: Sequence[int | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([math.nan if v is None else v * 1e-6 for v in values], dtype=np.float64)


def _short(values: np.ndarray[Any, np.dtype[np.int64]]) -> int | list[int]:
    """One number where all are equal."""
    listed: list[int] = values.tolist()
    return listed[0] if listed and len(set(listed)) == 1 else listed
