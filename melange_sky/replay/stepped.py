"""A fleet over hours or weeks in one run: replicas start, serve and stop, and the gateway changes its plan.

    rollout = rollout_of([FleetStep(at_s=0, plan=night), FleetStep(at_s=3600, plan=day)], startup_s=600)
    run = replay_rollout(rollout, engine_of, stream, seed=0)  # run.log: meets(run.log, slo)

Same arguments, same result, bit for bit.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.capacities import CapacityCell
from melange_sky.plans import Allocation
from melange_sky.replay.rollout import REST_S, Handover, Life, Rollout
from melange_sky.replay.run import EngineOf, fleet_options
from melange_sky.routing import routing_state, routing_table, session_homes
from melange_sky.simulator.stepped import Phase, Stay, simulate_stepped_fleet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melange_sky.capacities import OptionCapacity
    from melange_sky.plans import ModelPlan
    from melange_sky.simulator import RequestStream
    from melange_sky.simulator.fleet import FleetOption, FleetRun
    from melange_sky.workload import Matrix

_UNKNOWN = CapacityCell(max_rate_rps=None, reason="is not in the plan")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Union:
    """All options of all plans in one order: a candidate of each, as many replicas as ever run, and common edges."""

    candidates: Mapping[str, OptionCapacity]
    replicas: Mapping[str, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def widened(self, plan: ModelPlan) -> ModelPlan:
        """Return the plan with every option and on the common edges; what it has not gets no request."""
        rows, columns = (
            _places(plan.workload.input_edges, self.inputs),
            _places(plan.workload.output_edges, self.outputs),
        )
        own = {a.candidate.option.name: a for a in plan.allocations}
        workload = replace(
            plan.workload,
            input_edges=self.inputs,
            output_edges=self.outputs,
            rates_rps=_shared_out(plan.workload.rates_rps, rows, columns),
            input_sizes=_spread(plan.workload.input_sizes, rows, columns),
            output_sizes=_spread(plan.workload.output_sizes, rows, columns),
        )
        allocations = tuple(
            _allocation(own[name], count, rows, columns)
            if name in own
            else self._none_of(name, count)
            for name, count in self.replicas.items()
        )
        return replace(plan, workload=workload, allocations=allocations)

    def _none_of(self, option: str, replicas: int) -> Allocation:
        rows, columns = len(self.inputs) - 1, len(self.outputs) - 1
        return Allocation(
            candidate=replace(self.candidates[option], cells=((_UNKNOWN,) * columns,) * rows),
            instances=replicas,
            load_fraction=0.0,
            rate_rps=0.0,
            shares=((0.0,) * columns,) * rows,
        )


def replay_rollout(
    rollout: Rollout,
    engine_of: EngineOf,
    stream: RequestStream,
    seed: int = 0,
    *,
    affinity: bool = False,
) -> FleetRun:
    """Send `stream`, whose times are from 0 on, through a fleet as it changes.

    The gateway's queue, its policy and what is in flight go on from one plan to the next; replicas that stop end
    their requests. Options are told apart by their names, and their engines are those of the first plan that
    has them. With `affinity` sessions are kept together. Raises InputError for plans that say nothing of engines.
    """
    seats, most = seated(rollout.lives)
    plans = {id(one.plan): one.plan for one in rollout.handovers}
    union = _union(list(plans.values()), most)
    widened = {key: union.widened(plan) for key, plan in plans.items()}
    options = _fleet_options(list(plans.values()), union, engine_of)
    phases = []
    for number, one in enumerate(rollout.handovers):
        plan, before = widened[id(one.plan)], rollout.handovers[max(number - 1, 0)].plan
        table = routing_table(plan)
        state = routing_state(table, plan, random.Random(f"{seed}/{number}"))
        phases.append(
            Phase(
                start_s=one.at_s,
                table=table,
                state=state,
                adopts=_same_edges(one.plan, before),
                homes=session_homes(plan, table, state) if affinity else None,
            )
        )
    first = dict(
        zip(union.replicas, np.cumsum([0, *union.replicas.values()]).tolist(), strict=False)
    )
    stays = [
        Stay(replica=first[life.option] + seat, start_s=start_s, end_s=end_s)
        for life, seat in seats
        if life.option in first
        for start_s, end_s in _routed_to(life, rollout.handovers)
    ]
    return simulate_stepped_fleet(options, phases, stays, stream)


def seated(lives: Sequence[Life]) -> tuple[list[tuple[Life, int]], dict[str, int]]:
    """Give every life that serves a seat of its option; return them, and how many seats each option has."""
    free_from: dict[str, list[float]] = {}
    found = []
    for life in sorted((one for one in lives if one.served), key=lambda one: one.serves_s):
        seats = free_from.setdefault(life.option, [])
        seat = next((n for n, s in enumerate(seats) if s + REST_S <= life.serves_s), len(seats))
        seats[seat : seat + 1] = [life.stops_s]
        found.append((life, seat))
    return found, {option: len(seats) for option, seats in free_from.items()}


def _routed_to(life: Life, handovers: Sequence[Handover]) -> list[tuple[float, float]]:
    """Return when a gateway sends to a replica: while it serves, under plans that have its option."""
    ends = [*(one.at_s for one in handovers[1:]), float("inf")]
    found: list[tuple[float, float]] = []
    for one, end_s in zip(handovers, ends, strict=True):
        if all(a.candidate.option.name != life.option for a in one.plan.allocations):
            continue
        start_s, last_s = max(one.at_s, life.serves_s), min(end_s, life.stops_s)
        if start_s >= last_s:
            continue
        if found and found[-1][1] == start_s:
            start_s = found.pop()[0]
        found.append((start_s, last_s))
    return found


def _union(plans: Sequence[ModelPlan], most: Mapping[str, int]) -> _Union:
    candidates: dict[str, OptionCapacity] = {}
    for plan in plans:
        for allocation in plan.allocations:
            candidates.setdefault(allocation.candidate.option.name, allocation.candidate)
    return _Union(
        candidates=candidates,
        replicas={name: max(most.get(name, 0), 1) for name in candidates},
        inputs=_merged([plan.workload.input_edges for plan in plans]),
        outputs=_merged([plan.workload.output_edges for plan in plans]),
    )


def _fleet_options(
    plans: Sequence[ModelPlan], union: _Union, engine_of: EngineOf
) -> list[FleetOption]:
    known: dict[str, FleetOption] = {}
    for plan in plans:
        for option in fleet_options(plan, engine_of):
            known.setdefault(option.name, option)
    return [replace(known[name], replicas=count) for name, count in union.replicas.items()]


def _same_edges(one: ModelPlan, other: ModelPlan) -> bool:
    mine, its = one.workload, other.workload
    return mine.input_edges == its.input_edges and mine.output_edges == its.output_edges


def _merged(edges: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted(set().union(*edges)))


def _places(own: Sequence[int], common: Sequence[int]) -> list[tuple[int, float]]:
    """Return, for each bucket of the common edges, its bucket of a plan's own and which part of that it is.

    What lies beyond a plan's own edges is in its outermost bucket, as the policy takes it, and none of it expected.
    """
    found = []
    for low, high in pairwise(common):
        k = next((k for k in range(len(own) - 1) if low < own[k + 1]), len(own) - 2)
        inside = own[k] <= low and high <= own[k + 1]
        found.append((k, (high - low) / (own[k + 1] - own[k]) if inside else 0.0))
    return found


def _spread(
    matrix: Matrix, rows: Sequence[tuple[int, float]], columns: Sequence[tuple[int, float]]
) -> Matrix:
    return tuple(tuple(matrix[i][j] for j, _ in columns) for i, _ in rows)


def _shared_out(
    matrix: Matrix, rows: Sequence[tuple[int, float]], columns: Sequence[tuple[int, float]]
) -> Matrix:
    return tuple(tuple(matrix[i][j] * a * b for j, b in columns) for i, a in rows)


def _allocation(
    own: Allocation,
    replicas: int,
    rows: Sequence[tuple[int, float]],
    columns: Sequence[tuple[int, float]],
) -> Allocation:
    cells = own.candidate.cells
    return replace(
        own,
        candidate=replace(
            own.candidate, cells=tuple(tuple(cells[i][j] for j, _ in columns) for i, _ in rows)
        ),
        instances=replicas,
        shares=_spread(own.shares, rows, columns),
        late=tuple((level, _spread(shares, rows, columns)) for level, shares in own.late),
    )
