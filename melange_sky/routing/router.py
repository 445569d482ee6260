"""The policy as an object: a plan, its replicas and what has been seen, behind a few calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.routing import affinity, carrying, policy
from melange_sky.routing.first_state import routing_state
from melange_sky.routing.homes import session_homes
from melange_sky.routing.table import FULL_LOAD, routing_table

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from melange_sky.plans import ModelPlan
    from melange_sky.routing.homes import Homes
    from melange_sky.routing.table import RoutingState, RoutingTable


class Router:
    """Routes requests of one plan. Per request: `class_of`, `route`, `finish`, `observe`.

    Replicas are numbered option by option in the order of the plan's allocations.
    """

    def __init__(
        self,
        plan: ModelPlan,
        rng: random.Random,
        replicas: Sequence[int] | None = None,
        full_load: float = FULL_LOAD,
        routers: int = 1,
        names: Sequence[str] | None = None,
    ) -> None:
        """Start with idle healthy replicas: `replicas` per allocation, by default as planned.

        Where several `routers` share the replicas and each sees its own requests only, each request
        is counted that many times. `names` tell the replicas apart, whichever are there: by them
        sessions have homes; by their numbers where it is empty, none without it.
        """
        self.options = tuple(a.candidate.option.name for a in plan.allocations)
        self.table: RoutingTable = routing_table(plan, replicas, full_load, routers)
        self.state: RoutingState = routing_state(self.table, plan, rng)
        self.homes: Homes | None = (
            None if names is None else session_homes(plan, self.table, self.state, names)
        )
        self.place = affinity.NO_SESSION
        """Where the last routed request went, as seen from its session's home (`affinity`)."""

    def class_of(self, input_tokens: int, max_tokens: int | None) -> int:
        """Return what is known of a request at its arrival, as a number."""
        return policy.class_of(self.table, input_tokens, max_tokens or 0)

    def route(
        self, c: int, tokens: int, avoid: Sequence[int] = (), session: int = 0
    ) -> tuple[int, float, int]:
        """Choose a replica and count the request as in flight: (replica, need, reason).

        `tokens` is the input plus the longest output asked for. `avoid` are replicas that failed this
        request before. `session` is a hash (`affinity.session_of`), 0 for none. The replica is −1 where
        none can take it, with reason FULL or DOWN. Hand the replica and the need back to `finish`.
        """
        table, state = self.table, self.state
        if not avoid:
            replica, reason = self._choose(c, tokens, session)
        else:
            barred = [r for r in avoid if state.healthy[r]]
            for r in barred:
                policy.set_health(table, state, r, 0)
            replica, reason = self._choose(c, tokens, session)
            for r in barred:
                policy.set_health(table, state, r, 1)
        if replica < 0:
            return replica, 0.0, reason
        return replica, policy.begin(table, state, c, replica), reason

    def _choose(self, c: int, tokens: int, session: int) -> tuple[int, int]:
        if session == 0 or self.homes is None:
            self.place = affinity.NO_SESSION
            return policy.choose(self.table, self.state, c, tokens)
        request = (c, tokens, session)
        replica, reason, self.place = affinity.choose(self.table, self.state, self.homes, request)
        return replica, reason

    def add(self, c: int, replica: int) -> float:
        """Count one more sequence of a request of class c, in flight on its replica: its need."""
        return policy.begin(self.table, self.state, c, replica)

    def finish(self, replica: int, need: float) -> None:
        """Count a request as gone from a replica, however it ended."""
        policy.finish(self.table, self.state, replica, need)

    def observe(self, c: int, output_tokens: int) -> None:
        """Learn the output length of a request of class c that ran to its end."""
        policy.observe(self.table, self.state, c, output_tokens)

    def set_health(self, replica: int, healthy: bool) -> None:
        """Take a replica out of the choice, or back into it."""
        policy.set_health(self.table, self.state, replica, int(healthy))

    def restore(self, replica: int, load: float, in_flight: int) -> None:
        """Set what is in flight at a replica that another router knew before."""
        carrying.restore(self.table, self.state, replica, load, in_flight)

    def option_of(self, replica: int) -> str:
        """Return the name of a replica's option."""
        return self.options[self.table.option_of[replica]]

    def expected_shares(self, c: int) -> dict[str, float]:
        """Return the shares per option that requests of class c get while nothing is overloaded."""
        base = c * self.table.options
        return {name: self.state.mix[base + k] for k, name in enumerate(self.options)}

    def adopt(self, old: Router) -> None:
        """Take over the output lengths that an earlier router saw, if its buckets are the same.

        Load and health belong to replicas and are carried over by whoever knows which is which.
        """
        table, old_table = self.table, old.table
        if (
            table.input_edges != old_table.input_edges
            or table.output_edges != old_table.output_edges
        ):
            return
        carrying.adopt(table, self.state, old.state)
