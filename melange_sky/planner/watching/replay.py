"""A backtest: the watcher over a trace, its changes played through the simulator, beside its rivals."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange_sky.errors import InfeasibleError, InputError
from melange_sky.planfile import load_plan
from melange_sky.planner.output_files import write_text
from melange_sky.planner.watching.judging import Judged, judged
from melange_sky.planner.watching.plan_fleets import PlanFleets
from melange_sky.planner.watching.playing import Fleet
from melange_sky.planner.watching.rivals import (
    SkyRule,
    five_minutes,
    perfect_usd,
    sky_rules,
    static_peak,
)
from melange_sky.planner.watching.ticking import Watcher
from melange_sky.planner.watching.traffic import BASE_S, PlayedTraffic, played_traffic
from melange_sky.watching.forecast import ASSUMED_BAND
from melange_sky.watching.journal import JOURNAL_FILE, line_hash, read_journal
from melange_sky.watching.seen import Seen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from melange_sky.planner.watching.asking import WatchOptions
    from melange_sky.watching.fleets import Counts

RULE, TUNED_RULE = "SkyServe's rule", "its best target"
MOST_REQUESTS = 400_000
"""Of more requests than so many as many are replayed, in stretches, for each contender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to run the fleet over the trace. `judged` None where it was not replayed, `changes` None likewise.

    `usd_at_equal` is what a rule that was tuned costs at the attainment of the watched fleet, None for others.
    """

    name: str
    usd: float
    judged: Judged | None
    changes: int | None
    detail: str = ""
    usd_at_equal: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """What watching would have cost over a trace, and how well it would have served, beside others.

    The first contender is the watched fleet; `perfect_usd` what foresight would have cost with the same starts.
    `reasons` counts decisions by verb and reason; `blocked` says whether the guard ever forbade growing.
    """

    traffic: PlayedTraffic
    target: float
    every_s: float
    startup_s: tuple[float, float]
    contenders: tuple[Contender, ...]
    perfect_usd: float
    reasons: dict[str, int]
    blocked: bool
    seed: int
    lines: tuple[str, ...]

    @property
    def watched(self) -> Contender:
        """The fleet that was watched."""
        return self.contenders[0]

    @property
    def above_perfect(self) -> float | None:
        """What it cost ÷ what foresight would have, − 1; None where that costs nothing, as all is paid for."""
        return self.watched.usd / self.perfect_usd - 1 if self.perfect_usd > 0 else None

    @property
    def held(self) -> bool:
        """Whether the SLO's attainment was reached over what was replayed."""
        return self.watched.judged is not None and self.watched.judged.attainment >= self.target


def backtest(
    folder: Path,
    options: WatchOptions,
    tell: Callable[[str], None],
    compare: bool = True,
    most_requests: int = MOST_REQUESTS,
) -> Backtest:
    """Play a trace, of each contender so many requests at most. Raises InputError for one that cannot be read or whose look is not a multiple of 20 s,
    InfeasibleError where no fleet of the plan serves it.

    The guard holds as it would; what needs an approval is not made.
    """
    assert options.replay is not None and options.trace is not None
    if options.every_s % BASE_S:
        raise InputError(f"--every: a replay looks every {BASE_S:g} s or a multiple of it")
    planned = load_plan(folder)
    fleets = PlanFleets(planned)
    (model,) = fleets.plan.models
    check_journal(folder)
    traffic = played_traffic(options.trace, options.replay, model.workload, options.seed)
    rules = options.rules(planned, mode="apply")
    watcher = Watcher(fleets, options.start_ups(journal_of(folder).parent), rules, options.every_s)
    tell(f"{traffic.requests} requests over {traffic.seconds / 3600:.1f} hours")
    played = _watched(watcher, traffic, options.every_s)
    fleet, lines, reasons = played.fleet, played.lines, played.reasons
    replayed = (most_requests, options.seed)
    own = judged(fleet, traffic, *replayed)
    found = [
        Contender(name="watched", usd=fleet.usd(traffic.seconds), judged=own, changes=fleet.changes)
    ]
    if compare:
        found += _rivals(fleets, watcher.startup_s, traffic, own.attainment, replayed)
    perfect = perfect_usd(played.reckoned, traffic, watcher.startup_s, _fleets_of(lines, fleets))
    for _, each in played.reckoned:
        each.save()
    return Backtest(
        traffic=traffic,
        target=model.slo.attainment,
        every_s=options.every_s,
        startup_s=(min(watcher.startup_s), max(watcher.startup_s)),
        contenders=tuple(found),
        perfect_usd=perfect,
        reasons=dict(sorted(reasons.items())),
        blocked=played.blocked,
        seed=options.seed,
        lines=_chained(lines, traffic.source),
    )


@dataclass(slots=True, kw_only=True)
class _Played:
    """The fleet as it changed, a line per look, decisions counted, whether the guard forbade growing, and from when
    on (seconds) which fleets were reckoned with."""

    fleet: Fleet
    reckoned: list[tuple[float, PlanFleets]]
    lines: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    blocked: bool = False


def _watched(watcher: Watcher[PlanFleets], traffic: PlayedTraffic, every_s: float) -> _Played:
    """Return what becomes of the fleet, look by look."""
    fleets = watcher.fleets
    rates, sizes = traffic.seen(every_s), traffic.sizes_seen(every_s)
    paid, rate_rps = fleets.kept(fleets.planned()), float(five_minutes(traffic)[0]) * ASSUMED_BAND
    first = fleets.grown(paid, rate_rps) if any(paid) else fleets.cheapest(rate_rps)
    if first is None:
        raise InfeasibleError("no fleet of the plan's options serves the beginning of the trace")
    fleet = Fleet(fleets, watcher.startup_s, first)
    played = _Played(fleet=fleet, reckoned=[(0.0, fleets)])
    queue = 0.0
    for number, rate in enumerate(rates.tolist(), 1):
        at_s = number * every_s
        queue = max(queue + (rate - fleet.able_rps(at_s - every_s)) * every_s, 0.0)
        live, starting = fleet.counts(at_s)
        seen = Seen(
            time=traffic.start + at_s,
            rate_rps=rate,
            bucket_rates=None if sizes is None else sizes[number - 1],
            queue=queue,
            live=live,
            starting=starting,
        )
        tick = watcher.tick(seen)
        decision = tick.decision
        played.lines.append(tick.entry)
        played.reasons[f"{decision.verb} {decision.reason}"] += 1
        if watcher.fleets is not played.reckoned[-1][1]:
            played.reckoned.append((at_s, watcher.fleets))
            fleet.reckon(watcher.fleets)
        if decision.verb == "apply" and decision.target is not None:
            fleet.change(at_s, tuple(decision.target.get(name, 0) for name in fleets.options))
        elif decision.verb == "blocked" and decision.message.startswith("the fleet is too small"):
            played.blocked = True
    return played


def _rivals(
    fleets: PlanFleets,
    startup_s: tuple[float, ...],
    traffic: PlayedTraffic,
    goal: float,
    replayed: tuple[int, int],
) -> list[Contender]:
    found = []
    static = static_peak(fleets, traffic, startup_s)
    if static is not None:
        found.append(
            Contender(
                name="static peak",
                usd=static.usd(traffic.seconds),
                judged=judged(static, traffic, *replayed),
                changes=0,
            )
        )
    rules = sky_rules(fleets, traffic, startup_s, goal, replayed)
    names = (RULE, TUNED_RULE)
    return found + [
        _of_rule(name, rule) for name, rule in zip(names, rules, strict=True) if rule is not None
    ]


def _of_rule(name: str, rule: SkyRule) -> Contender:
    return Contender(
        name=name,
        usd=rule.usd,
        judged=rule.judged,
        changes=rule.changes,
        detail=f"{rule.option}, {rule.target_rps:.3g} req/s a replica",
        usd_at_equal=rule.usd_at_goal,
    )


def _fleets_of(lines: list[dict[str, Any]], fleets: PlanFleets) -> set[Counts]:
    wanted = (line["plan"]["counts"] for line in lines if line["decision"] == "apply")
    return {tuple(counts.get(name, 0) for name in fleets.options) for counts in wanted}


def check_journal(folder: Path) -> None:
    """Raise InputError where the folder's journal tells of a live fleet: a replay must not take its place."""
    path = journal_of(folder)
    if any(line.get("replay") is None for line in read_journal(path).lines):
        raise InputError(
            f"{path}: tells of a live fleet, which a replay would overwrite; copy the plan to another folder first"
        )


def journal_of(folder: Path) -> Path:
    """Return where a plan's journal is."""
    return (folder if folder.is_dir() else folder.parent) / JOURNAL_FILE


def write_replay(found: Backtest, folder: Path) -> Path:
    """Write the journal of a backtest, whole or not at all; return where."""
    path = journal_of(folder)
    write_text(path, "".join(f"{line}\n" for line in found.lines))
    return path


def _chained(lines: list[dict[str, Any]], source: str) -> tuple[str, ...]:
    chained: list[str] = []
    last: str | None = None
    for line in lines:
        text = json.dumps({**line, "replay": source, "previous_hash": last}, allow_nan=False)
        chained.append(text)
        last = line_hash(text)
    return tuple(chained)
