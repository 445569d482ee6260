"""How to follow a fleet: the flags of `watch`, by their names, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from melange_sky.errors import InputError, clip
from melange_sky.planner.figures import within
from melange_sky.planner.handover import Handover
from melange_sky.planner.replayed_trace import replayed_trace
from melange_sky.planner.watching.starts import learnt_starts
from melange_sky.spec.guard import load_guard
from melange_sky.watching.decide import Mode, Rules
from melange_sky.watching.provisioning import StartUps

if TYPE_CHECKING:
    from melange_sky.plans import Plan
    from melange_sky.workload import Trace

MODES: tuple[Mode, ...] = ("observe", "propose", "apply")
LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """What to look at and what may be done: the flags of `watch`, by their names.

    `once` ends after one look. `routes`, `backends` and `drain_s` are as those of `apply`. Raises InputError where a flag makes no sense.
    """

    mode: str = "observe"
    observed: Path | None = None
    gateway: str | None = None
    metrics: Sequence[str] = ()
    prometheus: str | None = None
    every_s: float = 60.0
    once: bool = False
    policy: Path | None = None
    startup_s: float | None = None
    routes: Path | None = None
    backends: Path | None = None
    drain_s: float = 600.0
    replay: Path | None = None
    columns: str | Mapping[str, str] | None = None
    timezone: str | None = None
    keep_failed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"--mode: '{clip(self.mode)}' must be one of {', '.join(MODES)}")
        within("--every", self.every_s, 1.0, 3600.0)
        if self.startup_s is not None:
            within("--startup-s", self.startup_s, 0.0, LONGEST_S)
        _ = self.trace

    def check(self, planned: Plan) -> None:
        """Raise InputError where a plan's fleet cannot be followed so."""
        if self.mode != "observe" and planned.elastic is not None:
            raise InputError(
                f"--mode {self.mode}: {planned.name} is `elastic`: SkyServe's autoscaler changes its replicas, and two "
                "cannot; make the plan without `elastic`, or watch it with --mode observe"
            )

    @property
    def trace(self) -> Trace | None:
        """The trace to replay, as it is to be read."""
        return replayed_trace(
            self.replay, "--replay", self.columns, self.timezone, keep_failed=self.keep_failed
        )

    def start_ups(self, folder: Path) -> StartUps:
        """Return how long replicas take to serve: as was told, else as a folder's watcher saw it."""
        return StartUps(given_s=self.startup_s, seen=learnt_starts(folder))

    @property
    def handover(self) -> Handover:
        """How gateways hear of a change."""
        gateways = () if self.gateway is None else (self.gateway,)
        return Handover(
            routes=self.routes, backends=self.backends, gateways=gateways, drain_s=self.drain_s
        )

    def rules(self, planned: Plan, mode: Mode | None = None) -> Rules:
        """Return how decisions are made for a plan; --policy stands in place of its `guard`."""
        guard = planned.guard if self.policy is None else load_guard(self.policy)
        (model,) = planned.models
        return Rules(mode=mode or cast("Mode", self.mode), target=model.slo.attainment, guard=guard)
