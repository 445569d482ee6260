"""Figures that commands take as text or numbers: token sizes and SLO limits, checked once."""

from __future__ import annotations

from collections.abc import Sequence

from melange_sky.errors import InputError, clip, did_you_mean
from melange_sky.names.accelerators import find_accelerator
from melange_sky.offers import parse_accelerator
from melange_sky.settings import usable_cores
from melange_sky.slo import SLO

LARGEST_TOKENS = 10_000_000
MOST_SIZES = 64
LARGEST_LIMIT_MS = 1e9
MOST_JOBS = 8
POLICIES = ("gateway", "round_robin", "least_load", "instance_aware_least_load")
"""How a replay routes: the gateway's own policy, or one of SkyServe's."""


def token_sizes(flag: str, sizes: str | Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of ``64,256`` or of a sequence; InputError names the flag.

    >>> token_sizes("--input", "64, 256"), token_sizes("--input", [64, 256])
    ((64, 256), (64, 256))
    """
    words = sizes.split(",") if isinstance(sizes, str) else [str(size) for size in sizes]
    if not 0 < len(words) <= MOST_SIZES:
        raise InputError(f"{flag}: give 1 to {MOST_SIZES} sizes")
    return tuple(_tokens(flag, word.strip()) for word in words)


def _tokens(flag: str, word: str) -> int:
    if word.isascii() and word.isdigit() and 0 < int(word[:20]) <= LARGEST_TOKENS:
        return int(word)
    raise InputError(
        f"{flag}: '{word[:30]}' is not a number of tokens between 1 and {LARGEST_TOKENS}"
    )


def replica_gpus(text: str) -> tuple[str, int]:
    """Return the accelerator's name and count of ``A10G:1``; InputError names the flag."""
    try:
        name, count = parse_accelerator(text)
        name = find_accelerator(name).name
    except ValueError as error:
        raise InputError(f"--accelerator: {str(error)[:200]}") from error
    if count is not None and count != int(count):
        raise InputError("--accelerator: a replica needs a whole number of GPUs")
    return name, int(count or 1)


def slo_of(tpot_ms: float | None, ttft_ms: float | None, attainment: float) -> SLO:
    """Return the SLO of limits in milliseconds, None for no limit; InputError names the flag."""
    if not 0 < attainment <= 1:
        raise InputError("--attainment: must lie above 0 and be at most 1")
    return SLO(
        tpot_s=_seconds("--tpot-ms", tpot_ms),
        ttft_s=_seconds("--ttft-ms", ttft_ms),
        attainment=attainment,
    )


def _seconds(flag: str, limit_ms: float | None) -> float | None:
    if limit_ms is None:
        return None
    if not 0 < limit_ms < LARGEST_LIMIT_MS:
        raise InputError(f"{flag}: must be a positive number of milliseconds")
    return limit_ms / 1e3


def one_of(flag: str, word: str, choices: Sequence[str]) -> str:
    """Return `word` where it is one of the choices; InputError names the flag and the nearest."""
    if word in choices:
        return word
    hint = did_you_mean(word, choices)
    raise InputError(f"{flag}: '{clip(word)}' is not one of {', '.join(choices)}{hint}")


def within(flag: str, number: float, low: float, high: float) -> float:
    """Return `number` where it lies between the two, both included; InputError names the flag."""
    if low <= number <= high:
        return number
    raise InputError(f"{flag}: {number:g} must lie between {low:g} and {high:g}")


def side_by_side(jobs: int | None) -> int:
    """Return how many replays run in parallel: `jobs`, else all cores that may be used, up to 8."""
    return jobs or min(usable_cores(), MOST_JOBS)
