"""What is said of a refresh, in the log and in warnings."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.pricing.refresh import RefreshResult

log = logging.getLogger(__name__)


def log_refresh(result: RefreshResult) -> None:
    """Say per cloud what was fetched, found unchanged, failed or is not hosted."""
    for cloud, pulled in result.pulled.items():
        state = "unchanged" if cloud in result.unchanged else "fetched"
        log.info("%s: %s, %d offers, %s", cloud, state, pulled.entry.offers, pulled.entry.label)
    for cloud, reason in result.failed.items():
        log.info("%s: failed, %s", cloud, reason)
    if result.absent:
        log.debug("not hosted: %s", ", ".join(result.absent))
    if result.manifest is not None:
        log.info("kept as snapshot %s", result.manifest.id)


def by_reason(failed: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Group failed clouds by the reason that they share, so that one outage is one line."""
    groups: dict[str, list[str]] = {}
    for cloud, reason in failed.items():
        groups.setdefault(reason, []).append(cloud)
    return [(clouds, reason) for reason, clouds in groups.items()]
