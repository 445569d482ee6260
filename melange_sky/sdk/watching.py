"""A fleet that follows its traffic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from melange_sky.planner.watching.asking import WatchOptions
from melange_sky.planner.watching.document import backtest_document
from melange_sky.planner.watching.following import Followed, follow
from melange_sky.planner.watching.replay import Backtest, backtest, write_replay
from melange_sky.report.backtest import backtest_text
from melange_sky.sdk.arguments import path_of
from melange_sky.sdk.results import Shown, as_result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melange_sky.sdk.arguments import AnyPath


class PlayedWatch(Shown, Backtest):
    """What watching would have cost over a trace; printed as `watch --replay` shows it."""

    __slots__ = ()

    @property
    def document(self) -> dict[str, Any]:
        """What `watch --replay --format json` prints."""
        return backtest_document(self)

    def __str__(self) -> str:
        return backtest_text(self.document)


def watch(
    folder: AnyPath,
    *,
    mode: str = "observe",
    observed: AnyPath | None = None,
    gateway: str | None = None,
    metrics: Sequence[str] = (),
    prometheus: str | None = None,
    every_s: float = 60.0,
    once: bool = False,
    policy: AnyPath | None = None,
    startup_s: float | None = None,
    routes: AnyPath | None = None,
    backends: AnyPath | None = None,
    drain_s: float = 600.0,
    replay: AnyPath | None = None,
    columns: str | Mapping[str, str] | None = None,
    timezone: str | None = None,
    keep_failed: bool = False,
    seed: int = 0,
    on_event: Callable[[str], None] | None = None,
) -> Followed | PlayedWatch:
    """Follow the traffic of a plan folder's fleet; every look is a line in its watch.jsonl.

    Args:
        folder: What `plan` wrote.
        mode: "observe" only tells, "propose" writes a proposal down, "apply" makes SkyServe run what is decided.
        observed: The file that a gateway's `--observed` writes.
        gateway: A gateway's address: its metrics are read.
        metrics: Addresses of replicas that serve, each as "OPTION=URL".
        prometheus: Address of a Prometheus that scrapes them.
        every_s: Seconds between two looks; of the trace with `replay`.
        once: Take one look and end.
        policy: A YAML file of guard rails, in place of the plan's `guard`.
        startup_s: Seconds from starting a replica until it serves; None for what was seen, else 600.
        routes: Where plan and addresses are written as one file, for `gateway FILE`.
        backends: Where lines for `gateway --backends-file` are written.
        drain_s: Longest wait for requests that still run at what stops.
        replay: A trace, or a CSV of time,rate_rps, to play through the simulator.
        columns: Which column of the trace is what, "time=ts:ms,input=n_in" or a mapping; None for told by names
            and values.
        timezone: Zone of the trace's stamps that name none, such as "Europe/Berlin".
        keep_failed: Count its requests that failed or have no output token, too.
        seed: Seed of the replay.
        on_event: Called with a sentence at each look; None says nothing.

    Returns:
        The number of looks, the last one's line, and whether a guard forbade the cure while the SLO was missed; with
        `replay` the backtest, whose lines are in watch.jsonl.

    Raises:
        InputError: The folder holds no plan of one model, or the traffic cannot be read.
        MelangeError: Something else cannot be done.
    """
    options = WatchOptions(
        mode=mode,
        observed=path_of(observed),
        gateway=gateway,
        metrics=metrics,
        prometheus=prometheus,
        every_s=every_s,
        once=once,
        policy=path_of(policy),
        startup_s=startup_s,
        routes=path_of(routes),
        backends=path_of(backends),
        drain_s=drain_s,
        replay=path_of(replay),
        columns=columns,
        timezone=timezone,
        keep_failed=keep_failed,
        seed=seed,
    )
    tell = on_event or (lambda _text: None)
    if options.replay is None:
        return follow(Path(folder), options, tell)
    found = backtest(Path(folder), options, tell)
    write_replay(found, Path(folder))
    return as_result(PlayedWatch, found)
