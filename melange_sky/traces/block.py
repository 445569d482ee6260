"""Requests of a trace, many at a time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TraceRequest(NamedTuple):
    """One request of a trace; `arrival_s` counts from the trace's own zero."""

    arrival_s: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HashIds:
    """The prefix blocks of some requests: those of request i are ``ids[starts[i]:starts[i + 1]]``.

    Shapes: `ids` (blocks of all requests), `starts` (requests + 1).
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]

    def of(self, request: int) -> NDArray[np.int64]:
        """Return the blocks of one request."""
        return self.ids[self.starts[request] : self.starts[request + 1]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TraceBlock:
    """Some requests of a trace in file order; arrays of shape (requests,).

    `arrival_s` counts from the trace's own zero; NaN where the trace has no times. `session` (texts, None
    where a request names none) and `hash_ids` are there where they were asked for and the trace has them.
    """

    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    session: tuple[str | None, ...] | None = None
    hash_ids: HashIds | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """As what a trace file is read: facts for people. `columns` are pairs of role and name.

    `clock` is the unit and zone of its times, None where it has none. `zone_shift_s`: how far its clock is
    ahead of UTC. `notes` are what a reader should know. `extras`: which of ``session`` and ``hash_ids``
    its requests name.
    """

    kind: str
    columns: tuple[tuple[str, str], ...]
    clock: str | None
    is_wall_clock: bool
    zone_shift_s: float = 0.0
    written: str = ""
    notes: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a trace's rows were: requests that count, failed ones, and rows that are no request.

    `failed` have a status that says so, or no output token; `without_output` are the latter. `left_out`
    of them do not count as requests. `odd_status`: words that no rule knows; their requests count.
    """

    requests: int = 0
    failed: int = 0
    without_output: int = 0
    left_out: int = 0
    other: int = 0
    odd_status: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add another file's."""
        self.requests += other.requests
        self.failed += other.failed
        self.without_output += other.without_output
        self.left_out += other.left_out
        self.other += other.other
        self.odd_status.update(other.odd_status)
