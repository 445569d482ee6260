"""What prompts share, counted as they come, in bounded memory: hashes of blocks in, figures out.

Stack distances of a sample of the blocks tell those of all (SHARDS: Waldspurger, Park, Garthwaite and Ahmad,
FAST 2015): a block is in the sample if its hash is below a threshold, which is halved whenever the sample
outgrows its room. What the sample misses or overrates of blocks that come again and again, as those of a system
prompt, is put right at the shortest distance, which theirs is.
"""

from __future__ import annotations

import bisect
import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from melange_sky.reuse.figures import Reuse, Spread

HASH_BITS = 60
MOST_SAMPLED = 8192
MOST_SESSIONS = 8192
MOST_PREFIX_BLOCKS = 256
_DRAWN = 4096
_BINS_PER_OCTAVE = 4
_BINS = 48 * _BINS_PER_OCTAVE


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPrompt:
    """One prompt: hashes of `HASH_BITS` bits of its full blocks, each of all up to its end.

    `session` is 0 where none is known; `block_tokens` is how many tokens a block has on average.
    """

    session: int
    blocks: Sequence[int]
    block_tokens: float


@dataclass(slots=True)
class _Talk:
    """A session as it was at its last request: blocks, the last one's hash, tokens of the answer."""

    arrival_s: float
    turns: int
    blocks: int
    last: int
    answer_blocks: int


@dataclass(slots=True)
class _Drawn:
    """A sample of even chance of values that come one by one, and their mean."""

    count: int = 0
    total: float = 0.0
    values: list[float] = field(default_factory=list)

    def add(self, value: float, rng: random.Random) -> None:
        self.count += 1
        self.total += value
        if len(self.values) < _DRAWN:
            self.values.append(value)
        elif (place := rng.randrange(self.count)) < _DRAWN:
            self.values[place] = value

    def spread(self) -> Spread | None:
        if not self.values:
            return None
        rising = sorted(self.values)
        return Spread(mean=self.total / self.count, p95=rising[int(0.95 * (len(rising) - 1))])


class ReuseCounter:
    """Counts prompts; `reuse` tells the figures so far."""

    def __init__(self, most_sampled: int = MOST_SAMPLED) -> None:
        """Start with nothing seen."""
        self._most = most_sampled
        self._below = 1 << HASH_BITS
        self._used: dict[int, int] = {}  # sampled blocks: when each was used last
        self._times: list[int] = []  # the same times, rising
        self._clock = 0
        self._found = [0.0] * _BINS  # tokens found, by distance
        self._sampled_tokens = self._tokens = self._prompt_tokens = 0.0
        self._blocks = 0
        self._prompts = 0
        self._talks: OrderedDict[int, _Talk] = OrderedDict()
        self._turns, self._thinks = _Drawn(), _Drawn()
        self._rng = random.Random(1)
        self._heads: list[list[int]] = []  # per block from the start: candidate, votes, prompts

    def add(
        self, arrival_s: float, input_tokens: int, output_tokens: int, prompt: SeenPrompt
    ) -> None:
        """Count one request that has ended."""
        talk = self._talks.pop(prompt.session, None) if prompt.session else None
        self._prompts += 1
        self._prompt_tokens += input_tokens
        self._blocks += len(prompt.blocks)
        self._tokens += len(prompt.blocks) * prompt.block_tokens
        self._count_found(prompt, talk)
        answer = int(output_tokens / prompt.block_tokens)
        self._use(prompt.blocks, answer)
        self._count_heads(prompt.blocks)
        if prompt.session:
            self._note(arrival_s, prompt, talk, answer)

    def _count_found(self, prompt: SeenPrompt, talk: _Talk | None) -> None:
        """Add the tokens of each sampled block that was seen before at its distance."""
        weight = (1 << HASH_BITS) / self._below
        goes_on = (
            talk is not None
            and 0 < talk.blocks < len(prompt.blocks)
            and prompt.blocks[talk.blocks - 1] == talk.last
        )
        distance = 0.0
        for place, block in enumerate(prompt.blocks):
            if block >= self._below:
                continue
            self._sampled_tokens += prompt.block_tokens * weight
            at = self._used.get(block)
            if at is not None:
                since = len(self._times) - bisect.bisect_right(self._times, at)
                distance = since * weight * prompt.block_tokens
            elif not (goes_on and talk is not None and place < talk.blocks + talk.answer_blocks):
                continue  # new; else it is the answer before, as old as what came before it
            self._found[_bin(distance)] += prompt.block_tokens * weight

    def _use(self, blocks: Sequence[int], answer: int) -> None:
        """Note that a request's blocks were used, its answer's and its prompt's last ones first."""
        share = self._below / (1 << HASH_BITS)
        alone = int(answer * share + self._rng.random())
        for _ in range(alone):
            self._put((1 << HASH_BITS) + self._clock)
        for block in reversed(blocks):
            if block < self._below:
                self._put(block)
        while len(self._used) > self._most:
            self._below >>= 1
            self._thin_out()

    def _put(self, block: int) -> None:
        at = self._used.get(block)
        if at is not None:
            del self._times[bisect.bisect_left(self._times, at)]
        self._clock += 1
        self._used[block] = self._clock
        self._times.append(self._clock)

    def _thin_out(self) -> None:
        """Leave what is below the threshold; of blocks that no prompt named, every other one."""
        named = 1 << HASH_BITS
        self._used = {
            block: at
            for block, at in self._used.items()
            if block < self._below or (block >= named and self._rng.random() < 0.5)
        }
        self._times = sorted(self._used.values())

    def _count_heads(self, blocks: Sequence[int]) -> None:
        """Vote for what most prompts begin with (Boyer and Moore), block by block."""
        heads = self._heads
        for place, block in enumerate(blocks[:MOST_PREFIX_BLOCKS]):
            if place == len(heads):
                heads.append([block, 0, 0])
            head = heads[place]
            if head[0] == block:
                head[1] += 1
                head[2] += 1
            elif head[1] == 0:
                head[:] = [block, 1, 1]
            else:
                head[1] -= 1

    def _note(self, arrival_s: float, prompt: SeenPrompt, talk: _Talk | None, answer: int) -> None:
        if talk is not None and arrival_s >= talk.arrival_s:
            self._thinks.add(arrival_s - talk.arrival_s, self._rng)
        self._talks[prompt.session] = _Talk(
            arrival_s=arrival_s,
            turns=1 if talk is None else talk.turns + 1,
            blocks=len(prompt.blocks),
            last=prompt.blocks[-1] if prompt.blocks else 0,
            answer_blocks=answer,
        )
        if len(self._talks) > MOST_SESSIONS:
            _, ended = self._talks.popitem(last=False)
            self._turns.add(ended.turns, self._rng)

    def reuse(self, source: str) -> Reuse | None:
        """Return the figures so far, None where no prompt had a full block."""
        if self._blocks == 0 or self._prompt_tokens == 0:
            return None
        block_tokens = max(1, round(self._tokens / self._blocks))
        found = list(self._found)
        found[0] = max(0.0, found[0] + self._tokens - self._sampled_tokens)
        if not any(self._found):
            found[0] = 0.0
        points = [(0, 0.0)]
        for number, so_far in enumerate(accumulate(found)):
            tokens = max(points[-1][0] + 1, block_tokens, round(_end_of(number)))
            if found[number] > 0:
                points.append((tokens, min(so_far / self._prompt_tokens, 1 - 1e-6)))
        shared = [head for head in self._heads if head[2] >= 0.5 * self._prompts > 0.5]
        turns = self._all_turns()
        return Reuse(
            stack_distance=tuple(points),
            infinite_hit=points[-1][1],
            block_tokens=block_tokens,
            shared_prefix_tokens=len(shared) * block_tokens,
            shared_fraction=min(
                points[-1][1],
                sum(head[2] for head in shared) * block_tokens / self._prompt_tokens,
            ),
            session_turns=turns,
            think_time_s=self._thinks.spread(),
            source=source,
        )

    def _all_turns(self) -> Spread | None:
        """Return the requests per session, those that go on counted as they are now."""
        drawn = _Drawn(self._turns.count, self._turns.total, list(self._turns.values))
        for talk in self._talks.values():
            drawn.add(talk.turns, self._rng)
        return drawn.spread()


def _bin(distance_tokens: float) -> int:
    """Return the bin of a distance: `_BINS_PER_OCTAVE` for every doubling."""
    mantissa, octave = _parts(distance_tokens)
    return min(_BINS - 1, max(0, _BINS_PER_OCTAVE * octave + mantissa))


def _parts(value: float) -> tuple[int, int]:
    octave = max(0, int(value)).bit_length() - 1
    if octave < 0:
        return 0, 0
    return int(_BINS_PER_OCTAVE * (value / (1 << octave) - 1)), octave


def _end_of(number: int) -> float:
    """Return the longest distance of a bin, in tokens."""
    octave, part = divmod(number, _BINS_PER_OCTAVE)
    return float(1 << octave) * (1 + (part + 1) / _BINS_PER_OCTAVE)
