"""Whether the fleet should change now, and to what: need, candidates with the cost of changing, patience.

A fleet grows at once when the highest rate that is to be expected until another replica could serve exceeds what
runs and starts; while a forecast has no errors of its own yet, where the looks surely lead. What piles up meanwhile
is served beside it. It shrinks, or is exchanged, when that saves more over `ahead_s` than the change costs, and two
looks in a row say so. While a fleet is exchanged the old one runs on, so that no change takes capacity away.
Soon after a change a change needs more than the scatter of rates explains, unless the SLO is being missed; while a
forecast has no errors of its own yet a fleet grows by that much more instead. While a change is under way the fleet
only grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from melange_sky.plans.guard import NO_GUARD, GuardRails
from melange_sky.watching.candidates import Weighing, best, of_growth, of_saving
from melange_sky.watching.decision import REASONS, Candidate, Decision
from melange_sky.watching.guard import Change, in_reach, needs_approval, objection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melange_sky.watching.decision import Verb
    from melange_sky.watching.fleets import Counts, Fleets
    from melange_sky.watching.forecast import Forecast
    from melange_sky.watching.seen import Seen

Mode = Literal["observe", "propose", "apply"]
_MOST_REGRETS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How decisions are made.

    `ahead_s` is how far savings are counted, `min_run_s` how long what started runs at least. A change must save
    `worth_fraction` of the fleet's cost beyond what it costs itself. A fleet shrinks after `agreeing` looks.
    `target` is the SLO's attainment. Where a fleet has to grow within `calm_s` of having shrunk, it shrinks no more for
    that long, and twice as long each time that happens again. Where the SLO is missed though the fleet should suffice,
    needs count for more by what it lacked, `most_short` at most, and half of that is forgotten every `forgets_s`. A need above what is served by `slack_fraction` is left
    alone, and so is one within `noises` standard deviations of the rates' scatter for `calm_s` after any change, though none above `most_noise` times what is served. What waits, and will until a start serves, is to be served within `drains_s`. An option that could not be had is left alone for `cool_down_s`.
    """

    mode: Mode = "observe"
    target: float = 0.95
    ahead_s: float = 7200.0
    min_run_s: float = 600.0
    worth_fraction: float = 0.02
    agreeing: int = 2
    cool_down_s: float = 1800.0
    calm_s: float = 3600.0
    slack_fraction: float = 0.03
    noises: float = 4.0
    most_noise: float = 0.1
    most_short: float = 2.0
    forgets_s: float = 21_600.0
    drains_s: float = 1800.0
    guard: GuardRails = NO_GUARD


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is remembered from look to look; all of it can be told from the journal.

    `changed_s` and `started_s`: when the fleet last changed, when something last started. `agreed`: how many looks
    in a row wanted less. `standing`: what was proposed and not followed. `without`: options that could not be had,
    until when. `missed`: looks in a row at which the SLO was missed. `target`: what a change will leave once it is
    through, None where nothing is under way. `shrunk_s`: when it last shrank; `regrets`: how often in a row that was
    too soon; until `calm_until_s` it does not shrink. `short`: how many times more the fleet had to be than its rate
    says, as of `short_s`; 1 where it kept its promise.
    """

    time: float | None = None
    changed_s: float | None = None
    started_s: float | None = None
    agreed: int = 0
    standing: Counts | None = None
    without: Mapping[str, float] = field(default_factory=dict)
    missed: int = 0
    target: Counts | None = None
    shrunk_s: float | None = None
    regrets: int = 0
    calm_until_s: float | None = None
    short: float = 1.0
    short_s: float | None = None

    def lacking(self, now: float, rules: Rules) -> float:
        """Return by how much needs count for more at a time than was foretold."""
        since_s = 0.0 if self.short_s is None else max(now - self.short_s, 0.0)
        return float(1.0 + (self.short - 1.0) * 0.5 ** (since_s / rules.forgets_s))

    def missing(self, now: float, needed: float, rules: Rules) -> State:
        """Return the state where a fleet missed though it should suffice: `needed` is by how much it must be more."""
        short = min(needed, rules.most_short)
        if short <= self.lacking(now, rules):
            return self
        return replace(self, short=short, short_s=now)

    def grown(self, now: float, calm_s: float) -> State:
        """Return the state after a growth: one that comes soon after a fleet shrank calms."""
        if self.shrunk_s is None:
            return self
        soon = now - self.shrunk_s <= calm_s
        regrets = min(self.regrets + 1, _MOST_REGRETS) if soon else 0
        until = now + calm_s * 2 ** (regrets - 1) if soon else self.calm_until_s
        return replace(self, shrunk_s=None, regrets=regrets, calm_until_s=until)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a decision rests on: what was seen, what is expected until a start serves, and for longer.

    `changing`: whether a change is being carried out at that moment.
    """

    seen: Seen
    soon: Forecast
    later: Forecast
    changing: bool = False


def decide(
    look: Look, state: State, fleets: Fleets, startup_s: tuple[float, ...], rules: Rules
) -> tuple[Decision, State]:
    """Return what to do, and the state for the next look. The look is sound: see `Seen.is_sound`.

    `startup_s` are seconds until a replica serves, per option of `fleets`.
    """
    seen = look.seen
    now = seen.time
    missed = _is_missed(seen, rules)
    state = replace(
        state,
        time=now,
        missed=state.missed + 1 if missed else 0,
        without={name: until for name, until in state.without.items() if until > now},
    )
    live = _counts(fleets, seen.live or {})
    held = tuple(a + b for a, b in zip(live, _counts(fleets, seen.starting), strict=True))
    if state.target == live:
        state = replace(state, target=None)
    elif state.target is not None:  # what is exchanged will be gone, what was asked for will come
        comes = look.changing or now - (state.changed_s or 0.0) < max(startup_s, default=0.0)
        held = state.target if comes else tuple(map(min, held, state.target))
    weigh = Weighing(
        fleets=fleets,
        held=held,
        startup_s=startup_s,
        ahead_s=rules.ahead_s,
        without=frozenset(state.without),
    )
    learns = look.later.band_origin == "assumed"
    need = look.soon.rising_rps if learns else look.soon.high_rps
    if state.missed >= 2 and held == live and need > 0:  # do the rates promise more than they hold?
        state = state.missing(now, fleets.rate(live) * 1.05 / need, rules)
    lacking = state.lacking(now, rules)
    more = _piled(look, fleets.rate(live), weigh.wait_s(now, state.started_s), rules)
    need = need * lacking + more / rules.drains_s
    deciding = _Deciding(
        weigh=weigh,
        state=state,
        rules=rules,
        now=now,
        missed=missed,
        learns=learns,
        only_grows=missed or look.changing or state.target is not None,
    )
    recent = state.changed_s is not None and now - state.changed_s < rules.calm_s
    scatter = 0.0
    if (recent or learns) and not missed:
        scatter = min(rules.noises * look.soon.noise, rules.most_noise)
    if need > weigh.held_rate * (
        1 + (rules.slack_fraction if learns else max(rules.slack_fraction, scatter))
    ):
        return deciding.grow(need * (1 + scatter) if learns else need)
    return deciding.save(max(need, look.later.high_rps * lacking) * (1 + scatter))


def _piled(look: Look, able_rps: float, wait_s: float, rules: Rules) -> float:
    """Return how many requests wait, with those that will until more can serve; 0 where no queue is seen.

    Where requests are refused no more pile up.
    """
    seen = look.seen
    if seen.queue is None:
        return 0.0
    over_rps = max(look.soon.level_rps - able_rps * (1 + rules.slack_fraction), 0.0)
    return seen.queue + (0.0 if seen.refused_rps else over_rps * wait_s)


def failed(state: State, options: frozenset[str], rules: Rules) -> State:
    """Return the state after a change that could not be made: what could not be had is left alone for a while."""
    until = (state.time or 0.0) + rules.cool_down_s
    return replace(
        state,
        without={**state.without, **dict.fromkeys(options, until)},
        changed_s=None,
        started_s=None,
        standing=None,
        target=None,
    )


def _is_missed(seen: Seen, rules: Rules) -> bool:
    """Return whether the SLO is being missed beyond what chance does to a minute's requests, or any are refused."""
    if seen.refused_rps:
        return True
    if seen.attainment is None or not seen.rate_rps:
        return False
    requests = max(seen.rate_rps * 60.0, 1.0)
    chance = 3.0 * (rules.target * (1 - rules.target) / requests) ** 0.5
    return bool(seen.attainment < rules.target - chance)


def _counts(fleets: Fleets, live: Mapping[str, int]) -> Counts:
    return tuple(live.get(name, 0) for name in fleets.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deciding:
    """One look's question: what is weighed, what is remembered, by which rules, and whether the SLO is missed.

    `only_grows`: whether it is, or a change is under way.
    """

    weigh: Weighing
    state: State
    rules: Rules
    now: float
    missed: bool
    learns: bool
    only_grows: bool

    def grow(self, need: float) -> tuple[Decision, State]:
        """Return what a fleet that is too small becomes."""
        weigh = self.weigh
        found = of_growth(weigh, need, self.rules.guard.max_usd_per_hour)
        choice = best(found)
        here = replace(self, state=replace(self.state, agreed=0))
        if choice is None:
            message = f"{REASONS['no-fleet']}: {need:.2f} req/s"
            return here._told("blocked", "no-fleet", message, found), here.state
        reason = "risk" if self.missed else "grow"
        message = f"{REASONS[reason]}: up to {need:.2f} req/s are to come, {weigh.held_rate:.2f} are served"
        return here._change(choice, found, reason, message)

    def save(self, need: float) -> tuple[Decision, State]:
        """Return what a fleet that suffices becomes: another one if that pays, and after some patience."""
        weigh, state, rules = self.weigh, self.state, self.rules
        found = of_saving(weigh, need)
        here = found[0]
        choice = best(found)
        worth = here.usd * rules.worth_fraction
        if self.only_grows or choice is None or choice is here or here.usd - choice.usd <= worth:
            code = "starting" if weigh.is_starting(self.now, state.started_s) else "steady"
            state = replace(state, agreed=0, standing=None)
            return self._told("keep", code, REASONS[code], found), state
        waiting = None
        if self.learns or (state.calm_until_s or 0.0) > self.now:
            waiting = "calm"
        elif state.started_s is not None and self.now - state.started_s < rules.min_run_s:
            waiting = "min-run"
        elif state.agreed + 1 < rules.agreeing:
            waiting = "agree"
        if waiting:
            state = replace(state, agreed=state.agreed + 1)
            return self._told("keep", waiting, REASONS[waiting], found), state
        fewer = all(a <= b for a, b in zip(weigh.counts(choice), weigh.held, strict=True))
        reason = "shrink" if fewer else "replace"
        message = (
            f"{REASONS[reason]}: ${here.usd_per_hour:,.2f}/h becomes ${choice.usd_per_hour:,.2f}/h "
            f"at up to {need:.2f} req/s"
        )
        return self._change(choice, found, reason, message)

    def _told(
        self,
        verb: Verb,
        reason: str,
        message: str,
        found: tuple[Candidate, ...],
        target: Counts | None = None,
    ) -> Decision:
        return Decision(
            verb=verb,
            reason=reason,
            message=message,
            target=None if target is None else self.weigh.named(target),
            candidates=found,
            slo_missed=self.missed,
        )

    def _change(
        self, choice: Candidate, found: tuple[Candidate, ...], reason: str, message: str
    ) -> tuple[Decision, State]:
        """Return a change as the mode and the guard let it be."""
        fleets, held = self.weigh.fleets, self.weigh.held
        state, rules, now = self.state, self.rules, self.now
        target = self.weigh.counts(choice)
        if rules.guard.max_change_instances != 0:
            target = in_reach(rules.guard, held, target, fleets.prices)
        change = Change(
            before=held,
            after=target,
            before_usd_per_hour=fleets.cost(held),
            after_usd_per_hour=fleets.cost(target),
            since_s=None if state.changed_s is None else now - state.changed_s,
        )
        if rules.mode == "observe":
            return self._told("keep", reason, message, found, target), state
        against = objection(rules.guard, change, now)
        if against is not None:
            text = f"{message}; {against.message}"
            return self._told("blocked", against.reason, text, found, target), state
        asks = needs_approval(rules.guard, change)
        if rules.mode == "propose" or asks:
            if state.standing == target:
                text = REASONS["standing"]
                return self._told("keep", "standing", text, found, target), state
            code = "approval" if asks and rules.mode == "apply" else reason
            state = replace(state, standing=target)
            return self._told("propose", code, message, found, target), state
        starts = any(a > b for a, b in zip(target, held, strict=True))
        if reason in ("grow", "risk"):
            state = state.grown(now, rules.calm_s)
        elif fleets.rate(target) < fleets.rate(held):
            state = replace(state, shrunk_s=now)
        state = replace(
            state,
            changed_s=now,
            started_s=now if starts else state.started_s,
            agreed=0,
            standing=None,
            target=target,
        )
        return self._told("apply", reason, message, found, target), state
