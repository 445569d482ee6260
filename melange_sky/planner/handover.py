"""Bring the traffic over between the services that grew and those that stop: tell the gateways, wait for them."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.errors import InputError, MelangeError
from melange_sky.planner.output_files import write_text
from melange_sky.planner.routes import revision_of, routes_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_ANSWER_S = 5.0
_MOST_BYTES = 1_000_000
TOLD_WITHIN_S = 300.0
"""How long a gateway may take to serve a new plan."""
UNCONFIRMED_S = 30.0
"""How long gateways that cannot be asked get to read a file: they look every 2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """How gateways hear of services: files to write, URLs of those to wait for.

    `routes` is one file for `gateway FILE`, `backends` the lines for `gateway --backends-file`. After
    `drain_s` what still runs at services that the plan no longer uses is not waited for any more.
    """

    routes: Path | None = None
    backends: Path | None = None
    gateways: Sequence[str] = ()
    drain_s: float = 600.0

    def __post_init__(self) -> None:
        for url in self.gateways:
            parts = urllib.parse.urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
                raise InputError(f"--gateway: '{url[:200]}' is not http://HOST[:PORT]")

    def write(self, plan_file: Path, places: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Write the files. `places` are URLs by model plan and option."""
        if self.routes is not None:
            named = {
                f"{plan}/{option}": list(urls)
                for plan, options in places.items()
                for option, urls in options.items()
            }
            write_text(self.routes, routes_text(plan_file, named))
        if self.backends is not None:
            rows = [(plan, *row) for plan, options in places.items() for row in options.items()]
            alone = len(places) == 1
            lines = [
                f"{option if alone else f'{plan}/{option}'}={url}\n"
                for plan, option, urls in rows
                for url in urls
            ]
            write_text(self.backends, "".join(sorted(lines)))

    def revisions(self, plan_file: Path) -> set[str]:
        """Return how a gateway may call what it is to serve: the plan's file, or the routes file."""
        files = [plan_file] if self.routes is None else [plan_file, self.routes]
        try:
            return {revision_of(file.read_bytes()) for file in files}
        except OSError as error:
            raise InputError(f"{files[-1]}: cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How to wait for gateways: `report` is shown each event, `clock` and `sleep` are seconds."""

    report: Callable[[str], None]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    poll_s: float = 1.0


def wait_for_gateways(
    handover: Handover, revisions: set[str], waiting: Waiting, *, stops: bool
) -> None:
    """Return once every gateway serves a revision and nothing runs at what it left.

    `stops` says whether anything is shrunk or stopped next. Raises MelangeError where a gateway does
    not take the plan.
    """
    if not handover.gateways:
        if stops and (handover.routes or handover.backends):
            waiting.report(
                f"no --gateway was given: {UNCONFIRMED_S:g} s for gateways to read the new addresses"
            )
            waiting.sleep(UNCONFIRMED_S)
        return
    until = waiting.clock() + TOLD_WITHIN_S
    for url in handover.gateways:
        _wait_taken(url, handover, revisions, waiting, until)
    if stops:
        _drain(handover, waiting)


def _wait_taken(
    url: str, handover: Handover, revisions: set[str], waiting: Waiting, until_s: float
) -> None:
    said = ""
    while True:
        why = _why_not(url, revisions)
        if why is None:
            waiting.report(f"{url}: serves the plan")
            return
        if why != said:
            waiting.report(f"{url}: {why}; waiting")
            said = why
        if waiting.clock() > until_s:
            file = handover.routes or handover.backends or "the plan's folder"
            raise MelangeError(
                f"{url}: {why}; nothing was shrunk or stopped. Bring {file} to it, then apply again"
            )
        waiting.sleep(waiting.poll_s)


def _why_not(url: str, revisions: set[str]) -> str | None:
    """Return why a gateway does not serve a plan yet, None where it does."""
    health = _health(url)
    if health is None:
        return "does not answer as a gateway of this version"
    if health.get("revision") not in revisions:
        return f"serves another plan (revision {str(health.get('revision'))[:16]})"
    unanswered = health.get("unanswered_options")
    return f"{unanswered} options have no replica that answers it" if unanswered else None


def _drain(handover: Handover, waiting: Waiting) -> None:
    until = waiting.clock() + handover.drain_s
    said = -1
    while True:
        states = [_health(url) for url in handover.gateways]
        counts = [s.get("leaving_requests") for s in states if s is not None]
        known = [count for count in counts if isinstance(count, int)]
        left = sum(known)
        if left == 0 and len(known) == len(handover.gateways):
            return
        if left != said:
            waiting.report(f"{left} requests still run at what the plan no longer uses")
            said = left
        if waiting.clock() > until:
            waiting.report(f"they had {handover.drain_s:g} s, and are not waited for any more")
            return
        waiting.sleep(waiting.poll_s)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _health(url: str) -> dict[str, object] | None:
    """Return what a gateway says of itself, None where nothing does."""
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(f"{url.rstrip('/')}/health", timeout=_ANSWER_S) as response:
            text = response.read(_MOST_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(_MOST_BYTES)
    except (OSError, ValueError):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and "leaving_requests" in document else None
