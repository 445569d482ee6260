"""The provider APIs by the names that `--source` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from melange_sky.prices.apis import PriceApi

Infra = tuple[tuple[str, "str | None"], ...]

_MAKERS: dict[str, Callable[[Infra], PriceApi]] = {}


def source_names() -> tuple[str, ...]:
    """Return every name that `--source` takes."""
    return ("catalog", *sorted(_MAKERS))


def find_apis(sources: tuple[str, ...], infra: Infra) -> tuple[PriceApi, ...]:
    """Return the APIs of the sources named; `catalog` stands for the hosted catalogs.

    `infra` limits what they are asked for. Raises InputError for an unknown name, or two sources of
    one cloud.
    """
    problems = [
        f"unknown price source '{name[:80]}'{did_you_mean(name, source_names())};"
        f" known: {', '.join(source_names())}"
        for name in sources
        if name not in source_names()
    ]
    if problems:
        raise InputError(*problems)
    return tuple(_MAKERS[name](infra) for name in dict.fromkeys(sources) if name != "catalog")
