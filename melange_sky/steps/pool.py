"""How many blocks of the KV cache a sequence takes: the paged cache of models with several kinds of layers.

As the default engine of release 0.33 allots it (its `v1/core/kv_cache_utils.py` and
`platforms/interface.py`):

* all layers alike, or all in need of the same tokens: one block table; a block holds `block_tokens`
  tokens of every layer;
* layers of several kinds (full, several windows, states): layers of a kind are dealt out into groups
  of as many layers, each with a table of its own, and all draw blocks of one size from one pool. Pages are
  made equal: a layer with fewer bytes per token gets more tokens in a block where that divides, else
  it is padded; with states, blocks are made so long that a page holds a state, and the state is padded;
* of a window, blocks further back are given up: it holds window ÷ block + 1, and while a prompt is
  computed what is in flight besides; a state takes one block, two while a prompt is computed.

Caches whose pages lie packed side by side (several compressions in one layer) share a pool by bytes.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.models import ModelShape
    from melange_sky.models.layer_group import LayerGroup

LATENT_ALIGNMENT = 128
"""Blocks of latent attention beside states come in multiples of so many tokens."""

MOST_PADDING = 1.5
"""Kinds whose numbers of layers differ by less are padded to the larger one, else split by the smaller."""

PARTS = 64
"""Parts that a block is counted in where caches share a pool by bytes."""

ENDLESS = 2**40


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBlocks:
    """What layers of one window hold: `parts` for each block of context, up to `cap` blocks.

    `prefill_cap` holds while a prompt is computed.
    """

    tokens: int
    parts: int
    cap: int
    prefill_cap: int
    chunked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPool:
    """The KV cache of one replica: `blocks`, of each of which a table holds `block_tokens` tokens.

    Blocks are counted in `scale` parts. A sequence takes `grown` parts for every `block_tokens` of its
    context, those of its `windows`, and `fixed` ones whatever its length (`prefill` more while its
    prompt is computed).
    """

    blocks: int
    block_tokens: int
    scale: int = 1
    grown: int = 1
    windows: tuple[WindowBlocks, ...] = ()
    fixed: int = 0
    prefill: int = 0

    @property
    def parts(self) -> int:
        """Parts of all blocks."""
        return self.blocks * self.scale

    @property
    def is_plain(self) -> bool:
        """Whether a sequence takes one block for each `block_tokens`, and nothing else."""
        return not self.windows and not self.fixed and self.grown == self.scale

    def held(self, tokens: int, *, prefill: bool = False) -> int:
        """Return the parts that a sequence of so many tokens holds."""
        blocks = -(-tokens // self.block_tokens)
        windowed = sum(
            w.parts * min(blocks, w.prefill_cap if prefill else w.cap) for w in self.windows
        )
        return self.grown * blocks + windowed + self.fixed + (self.prefill if prefill else 0)

    @property
    def longest_tokens(self) -> int:
        """The longest sequence that the cache holds, alone; `ENDLESS` where its layers forget."""
        if self.is_plain:
            return self.tokens
        if self.held(ENDLESS, prefill=True) <= self.parts:
            return ENDLESS
        low, high = 0, self.parts // max(self.grown, 1) + 1
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.held(middle * self.block_tokens, prefill=True) <= self.parts
            low, high = (middle, high) if fits else (low, middle)
        return low * self.block_tokens

    @property
    def tokens(self) -> int:
        """Tokens that the blocks hold if all layers keep all of them."""
        return self.blocks * self.block_tokens

    def tokens_at(self, context_tokens: int) -> int:
        """Return the tokens that the cache holds in prompts of so many tokens each, as engines print it."""
        if self.is_plain:
            return self.tokens
        return int(context_tokens * self.parts / max(self.held(context_tokens, prefill=True), 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLayout:
    """What a block is: its bytes on each GPU, and what a sequence takes of such blocks."""

    block_bytes: float
    rule: KvPool

    def pool(self, blocks: int) -> KvPool:
        """Return the cache of so many blocks."""
        return dataclasses.replace(self.rule, blocks=blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cache:
    """Layers that cache alike on one GPU: bytes per token of one layer, or bytes of its state."""

    layers: int
    token_bytes: float = 0.0
    window: int | None = None
    chunked: bool = False
    state_bytes: float = 0.0


@dataclass(slots=True)
class _Tally:
    """Sums up what a sequence takes, table by table."""

    block_tokens: int
    scale: int = 1
    in_flight: int = 0
    grown: int = 0
    fixed: int = 0
    prefill: int = 0
    windows: list[WindowBlocks] = field(default_factory=list)

    def add(self, cache: _Cache, tables: int, times: int = 1) -> None:
        """Count `tables` of a kind whose blocks hold `times` as many tokens."""
        self.add_parts(cache, tables * self.scale, times)

    def add_parts(self, cache: _Cache, whole: int, times: int = 1) -> None:
        """Count so many parts for each block, which holds `times` as many tokens."""
        parts = whole // times
        if cache.state_bytes:
            self.fixed += parts
            self.prefill += parts
        elif cache.window is None:
            self.grown += parts
            self.fixed += (whole - parts) // 2  # the last, larger block is half empty
        else:
            self.windows.append(self._window(cache, parts, times))

    def _window(self, cache: _Cache, parts: int, times: int) -> WindowBlocks:
        assert cache.window is not None
        size = self.block_tokens * times

        def blocks(tokens: int) -> int:
            if cache.chunked:
                return -(-tokens // size) * times
            return (-(-(tokens - 1) // size) + 1) * times

        return WindowBlocks(
            tokens=cache.window,
            parts=parts,
            cap=blocks(cache.window),
            prefill_cap=blocks(cache.window + self.in_flight),
            chunked=cache.chunked,
        )

    def layout(self, block_bytes: float) -> BlockLayout:
        """Return the layout with blocks of so many bytes."""
        rule = KvPool(
            blocks=1,
            block_tokens=self.block_tokens,
            scale=self.scale,
            grown=self.grown,
            windows=tuple(self.windows),
            fixed=self.fixed,
            prefill=self.prefill,
        )
        return BlockLayout(block_bytes=block_bytes, rule=rule)


def block_layout(
    model: ModelShape, tensor_parallel: int, block_tokens: int, in_flight_tokens: int
) -> BlockLayout:
    """Return the blocks of a model on each GPU of a tensor-parallel group.

    `block_tokens` is the engine's own block size, `in_flight_tokens` what the steps that are not yet
    settled compute at most.
    """
    caches = _caches(model, tensor_parallel)
    tally = _Tally(block_tokens=block_tokens, in_flight=in_flight_tokens)
    if len({(c.window, c.chunked) for c in caches}) == 1 and not any(c.state_bytes for c in caches):
        tally.add(caches[0], 1)
        return tally.layout(block_tokens * sum(c.layers * c.token_bytes for c in caches))
    if any(group.kv_values and group.window_values for group in model.groups):
        return _by_bytes(caches, tally)
    states = [cache.state_bytes for cache in caches if cache.state_bytes]
    if states:
        widest = max(cache.token_bytes for cache in caches)
        latent = any(group.latent for group in model.groups)
        step = max(block_tokens, LATENT_ALIGNMENT if latent else 0)
        tally.block_tokens = step * math.ceil(max(states) / (step * widest))
    return _by_tables(caches, tally)


def whole_layout(model: ModelShape, tensor_parallel: int, block_tokens: int) -> BlockLayout:
    """Return the blocks of an engine that keeps every token of every layer, whatever its window."""
    caches = [c for c in _caches(model, tensor_parallel) if not c.state_bytes]
    tally = _Tally(block_tokens=block_tokens, grown=1)
    return tally.layout(block_tokens * sum(c.layers * c.token_bytes for c in caches))


def _caches(model: ModelShape, tensor_parallel: int) -> list[_Cache]:
    """Return what each kind of layer caches, like ones together, in order of first appearance."""
    counts: dict[_Cache, int] = {}
    for group in model.groups:
        for cache in _caches_of(group, model.kv_dtype_bytes, tensor_parallel):
            counts[cache] = counts.get(cache, 0) + group.count
    return [dataclasses.replace(cache, layers=count) for cache, count in counts.items()]


def _caches_of(group: LayerGroup, value_bytes: float, tensor_parallel: int) -> list[_Cache]:
    split = group.kv_split(tensor_parallel)
    found = []
    if group.caches and (grown := group.kv_values * value_bytes + group.fixed_bytes):
        found.append(_Cache(layers=1, token_bytes=grown / split))
    if group.window_values:
        size = group.window_values * value_bytes / split
        found.append(_Cache(layers=1, token_bytes=size, window=group.window, chunked=group.chunked))
    if group.state_bytes:
        found.append(_Cache(layers=1, state_bytes=group.state_bytes / tensor_parallel))
    return found


def _by_tables(caches: Sequence[_Cache], tally: _Tally) -> BlockLayout:
    """Deal out layers into tables of as many layers, with pages of one size."""
    page = max(cache.token_bytes for cache in caches)
    times = [
        round(page / cache.token_bytes)
        if cache.token_bytes and (page / cache.token_bytes).is_integer()
        else 1
        for cache in caches
    ]
    fewest, most = min(c.layers for c in caches), max(c.layers for c in caches)
    size = most if most < MOST_PADDING * fewest else fewest
    tally.scale = math.lcm(*times)
    for cache, longer in zip(caches, times, strict=True):
        tally.add(cache, -(-cache.layers // size), longer)
    return tally.layout(size * tally.block_tokens * page)


def _by_bytes(caches: Sequence[_Cache], tally: _Tally) -> BlockLayout:
    """Let all kinds share the pool by their bytes; a block is that of the layers without end."""
    grown = sum(c.layers * c.token_bytes for c in caches if c.window is None)
    block_bytes = tally.block_tokens * grown
    tally.scale = PARTS
    for cache in caches:
        size = cache.layers * (cache.state_bytes or tally.block_tokens * cache.token_bytes)
        if cache.window is not None or cache.state_bytes:
            tally.add_parts(cache, math.ceil(PARTS * size / block_bytes))
    tally.grown = PARTS
    return tally.layout(block_bytes)
