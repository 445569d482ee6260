"""Which column of a log is what, told by the words of its name and by what it holds.

No list of formats: a name such as ``ContextTokens``, ``prompt_tokens``, ``usage.input`` or
``gen_ai.usage.input_tokens`` says which side it counts and that it counts tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.traces.outcome import is_outcome
from melange_sky.traces.role_words import (
    AT_THE_END,
    COUNTED,
    INPUT,
    NO_COUNT,
    NO_PARENT,
    NO_TIME,
    OF_TOKENS,
    OUTPUT,
    SESSIONS,
    TIMES,
)
from melange_sky.traces.sample import Column, Sample, words_of
from melange_sky.traces.stamps import looks_like_times
from melange_sky.traces.tokens import as_count, looks_like_counts

if TYPE_CHECKING:
    from melange_sky.workload import TraceOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """The columns by what they are; of several for one role the first that holds a value counts.

    `time` is empty where no column is named as one; `is_end`: it is when requests ended, for want of their start.
    """

    time: tuple[Column, ...]
    input: tuple[Column, ...]
    output: tuple[Column, ...]
    status: tuple[Column, ...] = ()
    session: tuple[Column, ...] = ()
    hash_ids: tuple[Column, ...] = ()
    added: tuple[Column, ...] = ()
    is_end: bool = False

    def all(self) -> tuple[Column, ...]:
        """Return every column that is read, each once."""
        groups = (
            self.time,
            self.input,
            self.added,
            self.output,
            self.status,
            self.session,
            self.hash_ids,
        )
        return tuple(dict.fromkeys(column for group in groups for column in group))


def side_of(path: tuple[str, ...]) -> str | None:
    """Return which side of a request a number of this name counts the tokens of: input, output or neither.

    >>> side_of(("response", "body", "usage", "prompt_tokens")), side_of(("max_tokens",))
    ('input', None)
    """
    parts = [part for key in path for part in key.split(".")]
    leaf, parent = words_of(parts[-1]), words_of(parts[-2]) if len(parts) > 1 else []
    words = set(leaf)
    if words & NO_COUNT or (set(parent) & NO_PARENT and "usage" not in parent):
        return None
    sides = [name for name, known in (("input", INPUT), ("output", OUTPUT)) if words & known]
    if len(sides) != 1:
        return None
    is_counted = (
        words & COUNTED
        or set(parent) & COUNTED
        or words <= {"input", "output", "inputs", "outputs"}
    )
    return sides[0] if is_counted else None


def _counting(sample: Sample, side: str) -> list[Column]:
    """Return the columns that may count a side's tokens, the likeliest first."""
    found = [c for c in sample.columns if side_of(c.path) == side and looks_like_counts(c.values)]

    def rank(column: Column) -> tuple[bool, bool, int]:
        words = set(words_of(column.path[-1]))
        return not column.present, not words & OF_TOKENS, len(column.path)

    return sorted(found, key=rank)


def _timing(sample: Sample) -> tuple[tuple[Column, ...], bool]:
    """Return the columns of when requests came, and whether they are of when they ended."""
    named: list[Column] = []
    for at_the_end in (False, True):
        scored = []
        for place, column in enumerate(sample.columns):
            score = _time_score(column, at_the_end=at_the_end)
            if score:
                scored.append((-score, len(column.path), place, column))
        ranked = [column for *_, column in sorted(scored, key=lambda entry: entry[:3])]
        found = next((column for column in ranked if looks_like_times(column.values)), None)
        if found is not None:
            return (found,), at_the_end
        named += [] if at_the_end else ranked
    # A column that is named as a time and holds none is refused, not passed over.
    return tuple(named[:1]), False


def _time_score(column: Column, *, at_the_end: bool) -> int:
    words = words_of(column.path[-1].rpartition(".")[2])
    if set(words) & NO_TIME or bool(set(words) & AT_THE_END) is not at_the_end:
        return 0
    return max((TIMES.get(word, 0) for word in words), default=0) or int(
        at_the_end and len(words) == 1
    )


def _sessions(sample: Sample) -> tuple[Column, ...]:
    scored = []
    for column in sample.columns:
        words = words_of(column.path[-1])
        score = max((SESSIONS.get(word, 0) for word in words), default=0)
        if (
            score
            and not set(words) & {"agent", "parent", "time", "tokens", "name", "type"}
            and column.present
        ):
            scored.append((score, column))
    return tuple(column for _, column in sorted(scored, key=lambda pair: -pair[0]))[:1]


def map_columns(sample: Sample, options: TraceOptions, where: str) -> Mapping:
    """Return which columns are what; InputError that says how to name them where names do not tell."""
    named = {role: _named(sample, name, role, where) for role, name in options.columns}
    pairs: dict[str, tuple[Column, ...]] = {}
    for side in ("input", "output"):
        pairs[side] = (named[side],) if side in named else tuple(_counting(sample, side))
    if not pairs["input"] or not pairs["output"]:
        raise InputError(f"{where}: {_untold(sample, pairs, options)}")
    for side in ("input", "output"):
        _check_one(pairs[side], side, where)
    times, is_end = ((named["time"],), False) if "time" in named else _timing(sample)
    status = (named["status"],) if "status" in named else tuple(filter(is_outcome, sample.columns))
    return Mapping(
        time=times,
        input=pairs["input"],
        output=pairs["output"],
        status=status,
        session=(named["session"],) if "session" in named else _sessions(sample),
        hash_ids=(named["hash_ids"],) if "hash_ids" in named else _hashes(sample),
        added=_beside_the_cache(sample, pairs["input"][0]),
        is_end=is_end,
    )


def _hashes(sample: Sample) -> tuple[Column, ...]:
    return tuple(c for c in sample.columns if words_of(c.path[-1]) == ["hash", "ids"])[:1]


def _beside_the_cache(sample: Sample, counted: Column) -> tuple[Column, ...]:
    """Return the prompt tokens that a log counts apart: read from, or written to, a provider's cache.

    Anthropic's usage has ``input_tokens`` without them; OpenAI's ``cached_tokens`` are part of the prompt's.
    """
    names = {"cache_read_input_tokens", "cache_creation_input_tokens"}
    if counted.path[-1] != "input_tokens":
        return ()
    beside = [c for c in sample.columns if c.path[:-1] == counted.path[:-1] and c.path[-1] in names]
    return tuple(c for c in beside if looks_like_counts(c.values))


def _check_one(found: tuple[Column, ...], side: str, where: str) -> None:
    """Refuse to choose between columns that say different things of the same requests."""
    first = found[0]
    for other in found[1:]:
        pairs = zip(first.values, other.values, strict=True)
        both = [(as_count(a), as_count(b)) for a, b in pairs]
        told = [(a, b) for a, b in both if a is not None and b is not None and (a or b)]
        if sum(a != b for a, b in told) > 0.01 * len(told):
            raise InputError(
                f"{where}: both {clip(first.name)} and {clip(other.name)} may count {side} tokens, and differ;"
                f" say which: --columns {side}={clip(first.name)}"
            )


def _named(sample: Sample, name: str, role: str, where: str) -> Column:
    found = sample.named(name)
    if found is None:
        names = [column.name for column in sample.columns]
        raise InputError(
            f"{where}: has no column '{clip(name)}' for {role}"
            f"{did_you_mean(name, names) or '; it has ' + _listed(names)}"
        )
    return found


def _untold(sample: Sample, pairs: dict[str, tuple[Column, ...]], options: TraceOptions) -> str:
    """Return what to say of a log whose columns of tokens are not told by their names."""
    missing = [side for side in ("input", "output") if not pairs[side]]
    times, _ = _timing(sample)
    known: dict[str, str] = {side: found[0].name for side, found in pairs.items() if found}
    if times:
        known["time"] = times[0].name
    used = set(known.values())
    numeric = [c.name for c in sample.columns if c.present and looks_like_counts(c.values)]
    guesses = _guesses(missing, [name for name in numeric if name not in used])
    shown = ",".join(
        f"{role}={known.get(role) or options.column(role) or guesses.get(role, '…')}"
        for role in ("time", "input", "output")
    )
    names = [column.name for column in sample.columns]
    return (
        f"no column's name says that it counts the {' or '.join(missing)} tokens; it has {_listed(names)};"
        f" name them: --columns {shown}"
    )


def _guesses(missing: Iterable[str], names: list[str]) -> dict[str, str]:
    known: dict[str, Callable[[str], bool]] = {
        "input": lambda name: bool(set(words_of(name)) & (INPUT | {"i", "inp", "prom", "p"})),
        "output": lambda name: bool(
            set(words_of(name)) & (OUTPUT | {"o", "outp", "gen", "comp", "r"})
        ),
    }
    found = {}
    for side in missing:
        near = next(filter(known[side], names), None)
        if near is not None:
            found[side] = near
    return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(clip(name, 40) for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
