"""Sessions stay where their earlier turns are cached. The policy of `policy` for requests of sessions.

1. The option is the session's home under the plan's shares (`homes`). One that is away, or loaded beyond
   what it can hold, or got more than its share of the class's last requests, as by a session that sends
   half of all traffic, is passed over for the session's next choice, always the same. Which sessions go
   first is a matter of their own, so that the others stay.
2. Within the option a replica takes a session's request as long as it then holds no more requests than
   1.25 times the mean of the option's healthy replicas, rounded up (consistent hashing with bounded
   loads, Mirrokni, Thorup and Zadimoghaddam 2016, arXiv:1608.01350); else the session's next choice does.

Nothing is remembered of sessions: from the same plan and replicas any gateway finds the same home.
"""

from __future__ import annotations

from melange_sky.routing import policy
from melange_sky.routing.homes import BITS, RECENT_REQUESTS, SPAN, Homes
from melange_sky.routing.table import RoutingState, RoutingTable

HOME, ELSEWHERE, AWAY, NO_SESSION = range(4)
PLACES = ("home", "spilled", "away", "none")
"""Where a session's request went: to its home; past it because it holds too much; past it because it is
away. And where there is no session."""

SESSION_BITS = 2 * BITS
LEAST_LOAD, MOST_LOAD = 0.95, 1.25
"""Between these loads of an option its sessions leave it, one after another."""
OVER_SHARE = 0.2
_OPTION_DRAWS, _REPLICA_DRAWS = 8, 24
_LOW, _HIGH = 0x2C1B3C6D, 0x297A2D39


def choose(
    t: RoutingTable, s: RoutingState, h: Homes, request: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Return (replica, reason, place) for a request (class, tokens that it may reach, session).

    `session` is a hash of `SESSION_BITS` bits, above 0. Replica −1 where none can take it. Counts the
    request for its option's share; call `policy.begin` when it is really sent.
    """
    c, tokens, session = request
    base = c * t.options
    low, high = session & (SPAN - 1), session >> BITS
    point = (low * _LOW + high * _HIGH) & (SPAN - 1)
    patience = (point & 255) / 256.0
    home = option_at(h, c, point)
    at, step = point, 2 * high + 1
    for draw in range(_OPTION_DRAWS):
        k = home if draw == 0 else option_at(h, c, at)
        at = (at + step) & (SPAN - 1)
        if draw > 0 and k == home:
            continue
        if usable(t, s, base, k, tokens) and has_room(t, s, h, base + k, k, patience):
            replica, place = seat(t, s, h, k, session)
            if k == home:
                count(t, h, base, k)
                return replica, policy.PLANNED, place
            if usable(t, s, base, home, tokens):
                count(t, h, base, k)
                return replica, policy.SPILLED, ELSEWHERE
            # What an option takes for one that is away is not held against it.
            count(t, h, base, home)
            return replica, policy.PLANNED, AWAY
    if (
        usable(t, s, base, home, tokens)
        and s.option_load[home] < MOST_LOAD * s.option_healthy[home]
    ):
        replica, place = seat(t, s, h, home, session)
        count(t, h, base, home)
        return replica, policy.PLANNED, place
    replica, reason = policy.choose(t, s, c, tokens)
    return replica, reason, (ELSEWHERE if s.option_healthy[home] > 0 else AWAY)


def option_at(h: Homes, c: int, point: int) -> int:
    """Return the option to which a class gives a point."""
    piece = h.piece_first[c]
    while h.piece_end[piece] <= point:
        piece += 1
    return h.piece_option[piece]


def usable(t: RoutingTable, s: RoutingState, base: int, k: int, tokens: int) -> bool:
    """Return whether an option can take a request of the class with entries from `base` on."""
    if s.option_healthy[k] == 0 or s.fit[base + k] == 0 or tokens > t.limit_tokens[k]:
        return False
    return s.option_load[k] < t.full_load * s.option_healthy[k]


def has_room(
    t: RoutingTable, s: RoutingState, h: Homes, entry: int, k: int, patience: float
) -> bool:
    """Return whether a session of such patience (0 … 1) may use an option it has a share of."""
    load = LEAST_LOAD + (MOST_LOAD - LEAST_LOAD) * patience
    if s.option_load[k] > load * s.option_healthy[k]:
        return False
    return h.recent[entry] <= h.most[entry] * (1.0 + OVER_SHARE * patience)


def count(t: RoutingTable, h: Homes, base: int, chosen: int) -> None:
    """Count a request of the class with entries from `base` on for the option it goes to."""
    keep = 1.0 - 1.0 / RECENT_REQUESTS
    for k in range(t.options):
        h.recent[base + k] *= keep
    h.recent[base + chosen] += 1.0 - keep


def seat(t: RoutingTable, s: RoutingState, h: Homes, k: int, session: int) -> tuple[int, int]:
    """Return (replica, place) for a session in option k, of which a replica is healthy."""
    healthy = s.option_healthy[k]
    most = (5 * (s.option_in_flight[k] + 1) + 4 * healthy - 1) // (4 * healthy)
    at, step = session & (SPAN - 1), 2 * (session >> BITS) + 1
    place, replica = HOME, t.first[k]
    for _ in range(_REPLICA_DRAWS):
        replica = nearer(h, k, at, (at + step) & (SPAN - 1))
        if not s.healthy[replica]:
            place = AWAY
        elif s.in_flight[replica] < most:
            return replica, place
        elif place == HOME:
            place = ELSEWHERE
        at = (at + 2 * step) & (SPAN - 1)
    # Few have room: any that has will do. One has, as not all hold more than the mean.
    while not s.healthy[replica] or s.in_flight[replica] >= most:
        replica += 1
        if replica == t.first[k + 1]:
            replica = t.first[k]
    return replica, place


def nearer(h: Homes, k: int, one: int, other: int) -> int:
    """Return the replica of option k that comes next to one of two places on its circle."""
    first, shift = h.first_step[k], h.shift[k]
    i = h.steps[first + (one >> shift)]
    while h.point_at[i] < one:
        i += 1
    j = h.steps[first + (other >> shift)]
    while h.point_at[j] < other:
        j += 1
    return h.point_replica[i if h.point_at[i] - one <= h.point_at[j] - other else j]


def session_of(digest: int) -> int:
    """Return the session that a hash of 64 bits stands for.

    >>> session_of(15), session_of(2**64 - 1) == 2**SESSION_BITS - 1
    (1, True)
    """
    return max(1, digest >> (64 - SESSION_BITS))
