"""The policy itself: which replica gets a request. The hot path of gateway and simulator.

1. The class of a request gives its expected shares per option: the plan's shares, averaged over the
   output lengths seen in that class.
2. Every option that can take it is owed its share of each request (*credit*); the one that is owed
   most gets it and pays 1. This is smooth weighted round robin: the plan holds on average and more
   tightly than by drawing at random.
3. An option whose healthy replicas are loaded beyond `SPILL_LOAD` loses credit in proportion, so a
   burst spills to the option owed next, and at last to options that the plan gave no share.
4. Within the option the least loaded healthy replica is taken, ties in turn.

These functions use nothing but numbers and flat sequences, and call only each other, so that
the simulator can make machine code of them for arrays: the same source with the same decisions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.routing.minima import NEVER, first_at_most, put
from melange_sky.routing.table import RoutingState, RoutingTable

if TYPE_CHECKING:
    from melange_sky.routing.vector import Vector

PLANNED, SPILLED, FAILOVER, UNFIT, FULL, DOWN = range(6)
REASONS = ("planned", "spilled", "failover", "unfit", "full", "down")
"""Why a replica was chosen: by the plan's shares; away from a loaded option; no option with a share is
healthy; no option that can serve such sizes within the SLO is healthy. And why none was: all that
could are full; none is healthy."""

SPILL_LOAD = 0.8
SPILL_GAIN = 8.0
CREDIT_BOUND = 1.5
OFF_PLAN_CREDIT = -2.0
"""An option without a share comes last: it gets requests only when the others are loaded past about
SPILL_LOAD + 2 / SPILL_GAIN."""
TIE_BREAK = 1e-3
REFRESH_EVERY = 32
MEMORY_REQUESTS = 4096.0
LIKELY = 0.5


def bucket(edges: Vector[int], tokens: int) -> int:
    """Return i with edges[i] < tokens <= edges[i + 1]; sizes past the ends fall in the end buckets."""
    last = len(edges) - 2
    for i in range(last):
        if tokens <= edges[i + 1]:
            return i
    return last


def class_of(t: RoutingTable, input_tokens: int, max_tokens: int) -> int:
    """Return the class of a request; `max_tokens` 0 where none was given."""
    most = t.outputs if max_tokens <= 0 else bucket(t.output_edges, max_tokens)
    return bucket(t.input_edges, input_tokens) * (t.outputs + 1) + most


def refresh(t: RoutingTable, s: RoutingState, c: int) -> None:
    """Work out shares, fitness and expected need per option of class c from the lengths seen in it.

    An option fits where at least half of the requests are expected in buckets that it can serve.
    Where no fitting option has a share, requests are spread by capacity.
    """
    row = (c // (t.outputs + 1)) * t.outputs
    seen = 0.0
    for j in range(t.outputs):
        seen += s.seen[c * t.outputs + j]
    total = 0.0
    for k in range(t.options):
        mix = chance = need = 0.0
        for j in range(t.outputs):
            p = s.seen[c * t.outputs + j] / seen
            at = (row + j) * t.options + k
            mix += p * t.share[at]
            chance += p * t.able[at]
            need += p * t.need[at]
        at = c * t.options + k
        s.fit[at] = 1 if chance >= LIKELY else 0
        s.cost[at] = need
        s.mix[at] = mix if chance >= LIKELY else 0.0
        total += s.mix[at]
    spread = total <= 1e-9
    if spread:
        total = 0.0
        for k in range(t.options):
            at = c * t.options + k
            s.mix[at] = s.fit[at] * (t.first[k + 1] - t.first[k]) / s.cost[at]
            total += s.mix[at]
    if total > 0.0:
        for k in range(t.options):
            s.mix[c * t.options + k] /= total


def observe(t: RoutingTable, s: RoutingState, c: int, output_tokens: int) -> None:
    """Count a finished request of class c, so that the next ones are predicted better."""
    s.seen[c * t.outputs + bucket(t.output_edges, output_tokens)] += 1.0
    s.fresh[c] += 1
    if s.fresh[c] < REFRESH_EVERY:
        return
    s.fresh[c] = 0
    seen = 0.0
    for j in range(t.outputs):
        seen += s.seen[c * t.outputs + j]
    if seen > MEMORY_REQUESTS:
        for j in range(t.outputs):
            s.seen[c * t.outputs + j] *= 0.5
    refresh(t, s, c)


def pick_replica(t: RoutingTable, s: RoutingState, k: int) -> int:
    """Return the least loaded healthy replica of option k, ties in turn; −1 where none is healthy."""
    leaf, top = t.leaf[k], t.top[k]
    least = s.lowest[top]
    if least >= NEVER:
        return -1
    at = s.cursor[k]
    found = -1
    if at < t.first[k + 1] - t.first[k]:
        found = first_at_most(s.lowest, leaf + at, top, least)
    if found < 0:
        found = first_at_most(s.lowest, top, top, least)
    s.cursor[k] = found - leaf + 1
    return t.first[k] + found - leaf


def rank(t: RoutingTable, s: RoutingState, replica: int) -> None:
    """Note that a replica's load or health has changed. What is nothing but for rounding counts 0."""
    k = t.option_of[replica]
    load = s.load[replica] if s.healthy[replica] else NEVER
    put(s.lowest, t.leaf[k] + replica - t.first[k], t.top[k], max(load, 0.0))


def choose(t: RoutingTable, s: RoutingState, c: int, tokens: int) -> tuple[int, int]:
    """Return (replica, reason) for a request of class c that may reach `tokens` in all; −1 for none.

    Changes credits only; call `begin` when the request is really sent.
    """
    base, full_load = c * t.options, t.full_load
    option_load, option_healthy, usable = s.option_load, s.option_healthy, s.usable
    mixes, owed, fits, limits = s.mix, s.credit, s.fit, t.limit_tokens
    best = planned = -1
    best_score = top = -1e300
    total = 0.0
    for k in range(t.options):
        usable[k] = 0
        healthy = option_healthy[k]
        if healthy == 0 or fits[base + k] == 0 or tokens > limits[k]:
            continue
        load = option_load[k] / healthy
        if load >= full_load:
            continue
        usable[k] = 1
        mix = mixes[base + k]
        if mix > 0.0:
            total += mix
            credit = owed[base + k] + mix
            if credit > top:
                top, planned = credit, k
        else:
            credit = OFF_PLAN_CREDIT
        score = credit - TIE_BREAK * load
        if load > SPILL_LOAD:
            score -= SPILL_GAIN * (load - SPILL_LOAD)
        if score > best_score:
            best_score, best = score, k
    if best < 0:
        return choose_unfit(t, s, c, tokens)
    if mixes[base + best] > 0.0:
        charge(t, s, base, best, total)
    crowded = planned >= 0 and option_load[planned] > SPILL_LOAD * option_healthy[planned]
    spilled = crowded and best != planned  # else a tie, which loads broke
    reason = FAILOVER if planned < 0 else (SPILLED if spilled else PLANNED)
    return pick_replica(t, s, best), reason


def charge(t: RoutingTable, s: RoutingState, base: int, chosen: int, total: float) -> None:
    """Give every usable option its share as credit and let the chosen one pay for the request."""
    usable, mixes, owed = s.usable, s.mix, s.credit
    for k in range(t.options):
        mix = mixes[base + k]
        if usable[k] == 0 or mix <= 0.0:
            continue
        credit = owed[base + k] + mix
        if k == chosen:
            credit -= total
        # Without a bound a long burst would leave a debt that floods the option once it recovers. In the
        # gateway min() and max() would take longer than all the rest here.
        if credit > CREDIT_BOUND:
            credit = CREDIT_BOUND
        elif credit < -CREDIT_BOUND:
            credit = -CREDIT_BOUND
        owed[base + k] = credit


def choose_unfit(t: RoutingTable, s: RoutingState, c: int, tokens: int) -> tuple[int, int]:
    """Choose where no fitting option is free: wait (FULL) if one is healthy, else any other option.

    Of those, one that accepts so many tokens comes before one that does not, then the least loaded.
    """
    base = c * t.options
    best, reason = -1, DOWN
    lowest = 1e300
    for k in range(t.options):
        healthy = s.option_healthy[k]
        if healthy == 0:
            continue
        fits_tokens = tokens <= t.limit_tokens[k]
        if s.fit[base + k] and fits_tokens:
            return -1, FULL
        load = s.option_load[k] / healthy
        if load >= t.full_load:
            reason = FULL
            continue
        if not fits_tokens:
            load += 1e6 + 1e6 / t.limit_tokens[k]
        if load < lowest:
            lowest, best = load, k
    if best < 0:
        return -1, reason
    return pick_replica(t, s, best), UNFIT


def begin(t: RoutingTable, s: RoutingState, c: int, replica: int) -> float:
    """Count a request of class c as in flight on a replica; returns its need, to hand to `finish`."""
    k = t.option_of[replica]
    need = s.cost[c * t.options + k]
    s.load[replica] += need
    s.in_flight[replica] += 1
    if s.healthy[replica]:
        s.option_load[k] += need
        s.option_in_flight[k] += 1
        rank(t, s, replica)
    return need


def finish(t: RoutingTable, s: RoutingState, replica: int, need: float) -> None:
    """Count a request as gone from a replica, however it ended."""
    s.in_flight[replica] -= 1
    # An idle replica has load 0 exactly: rounding errors must not add up over millions of requests.
    gone = s.load[replica] if s.in_flight[replica] == 0 else need
    s.load[replica] -= gone
    if s.healthy[replica]:
        k = t.option_of[replica]
        s.option_load[k] -= gone
        s.option_in_flight[k] -= 1
        rank(t, s, replica)


def set_health(t: RoutingTable, s: RoutingState, replica: int, healthy: int) -> None:
    """Take a replica out of (0) or back into (1) the choice; its requests in flight stay counted."""
    if s.healthy[replica] == healthy:
        return
    k = t.option_of[replica]
    s.healthy[replica] = healthy
    rank(t, s, replica)
    sign = 1 if healthy else -1
    s.option_healthy[k] += sign
    s.option_load[k] += sign * s.load[replica]
    s.option_in_flight[k] += sign * s.in_flight[replica]
    if s.option_healthy[k] == 0:
        s.option_load[k] = 0.0
