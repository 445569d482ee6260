"""Engine generations as data: how an engine schedules, and the constants fitted for it.

The figures are in `profiling/engine_constants.json`, written by `profiling/calibrate.py`; nothing
here knows a number of any generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

MOST_BUDGET = 32768
"""Models with a longer context were served in chunks even then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """The three constants of one accelerator under one generation, fractions of the data sheet.

    `bandwidth`: of device memory when weights are read. `compute`: of the dense tensor rate in
    matrix products. `attention`: of device memory when the KV cache is read, and of what the products
    reach in prefill attention.
    """

    bandwidth: float
    compute: float
    attention: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """Time that no data sheet explains, in seconds, the same for every accelerator.

    Per step, per layer of a step, per sequence in a step, per token of vocabulary and sequence
    (sampling), and per all-reduce between 2 GPUs over NVLink or over PCIe (one more such latency per
    doubling). `interconnect` is the fraction of the link's rate that an all-reduce reaches.
    """

    step_s: float
    layer_s: float
    sequence_s: float
    vocabulary_s: float
    allreduce_nvlink_s: float
    allreduce_pcie_s: float
    interconnect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How the engine batches.

    `chunked`: prefill and decode share steps under a token budget (today's engines); else waiting
    prompts run first, in steps of their own, and decoding stands still meanwhile (engines of 2023).
    The budget and the default most sequences are larger on GPUs of 70 GiB and more other than A100
    (the engine's own defaults); a budget of 0 stands for the model's context, at least
    2048, as it was before chunked prefill. With `reserve_tokens` above 0 a sequence takes all its
    KV space, at least so much, on admission (TGIS does not page); `watermark_fraction` of the cache
    stays free on admission.

    While something runs, waiting requests are let in only once they are `waiting_ratio` times as many
    as the running ones, or after `wait_steps` decoding steps (TGI's and TGIS' batcher; 0: at once).
    """

    chunked: bool
    budget_tokens: int
    budget_tokens_large: int
    max_num_seqs: int
    max_num_seqs_large: int
    block_tokens: int
    watermark_fraction: float
    reserve_tokens: int
    gpu_memory_utilization: float
    wait_steps: int = 0
    waiting_ratio: float = 0.0

    def budget(self, large: bool, context_tokens: int) -> int:
        """Most tokens in one step."""
        budget = self.budget_tokens_large if large else self.budget_tokens
        return budget or max(2048, min(context_tokens, MOST_BUDGET))

    def sequences(self, large: bool) -> int:
        """Most sequences in one step where nothing says otherwise."""
        return self.max_num_seqs_large if large else self.max_num_seqs


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBand:
    """True ÷ estimated throughput lies in [low, high] for about 90 % of the data it comes from."""

    low: float
    high: float
    basis: str

    def wider(self, factor: float) -> ErrorBand:
        """Return a band whose ends lie further apart by a factor each."""
        return replace(self, low=self.low / factor, high=self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One engine generation: schedule, overheads, and efficiency per accelerator.

    An accelerator that was not measured takes `default`, and the wider `band_default`.
    """

    name: str
    schedule: Schedule
    overheads: Overheads
    efficiencies: Mapping[str, Efficiency]
    default: Efficiency
    band: ErrorBand
    band_default: ErrorBand
    note: str
    fingerprint: str

    def efficiency(self, accelerator: str) -> Efficiency:
        """Return the constants of `accelerator`."""
        return self.efficiencies.get(accelerator, self.default)

    def error_band(self, accelerator: str) -> ErrorBand:
        """Return how far estimates for `accelerator` may be off."""
        return self.band if accelerator in self.efficiencies else self.band_default
