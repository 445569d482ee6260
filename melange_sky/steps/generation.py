"""Engine generations as data: how an engine schedules, and the constants fitted for it.

The figures are in `profiling/engine_constants.json`, written by `profiling/calibrate.py`; nothing
here knows a number of any generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.models import ModelShape
    from melange_sky.steps.bands import BandClass, ErrorBand, Regime

MOST_BUDGET = 32768
"""Models with a longer context were served in chunks even then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """Matrix products of one kind: fractions of memory bandwidth and of the tensor rate.

    `sharpness` is how suddenly reading gives way to computing as tokens grow: with r = seconds of
    reading, c of computing, products take (r^s + c^s)^(1/s), which is their larger for a very large s.
    """

    bandwidth: float
    compute: float
    sharpness: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """The constants of one accelerator under one generation, fractions of the data sheet.

    `bandwidth`: of device memory when weights are read. `compute`: of the dense tensor rate in
    matrix products, `sharpness` as in `Products`. `attention`: of device memory when the KV cache is
    read. `prefill`: of the dense tensor rate in prefill attention (None: `compute` × `attention`).

    `fp8`: products of fp8 weights where the chip computes in it; `experts`, `experts_fp8`,
    `experts_int4`: those of routed experts in 16, 8 and 4 bits (None: as the dense ones). `layer_s` and `expert_layer_s` are what starting the
    kernels of a layer takes, and of its experts; `prompt_layer_s` what attention of prompts takes beyond
    that of decoding. `sinks`: prefill attention of heads with sinks against others. `state`: of device
    memory when states of linear attention are read and written (None: `attention`); `scan`: a token of a
    prompt takes as long in it as moving this share of the state.
    """

    bandwidth: float
    compute: float
    attention: float
    sharpness: float = inf
    prefill: float | None = None
    fp8: Products | None = None
    experts: Products | None = None
    experts_fp8: Products | None = None
    experts_int4: Products | None = None
    layer_s: float = 0.0
    expert_layer_s: float = 0.0
    prompt_layer_s: float = 0.0
    sinks: float = 1.0
    state: float | None = None
    scan: float = 0.0

    @property
    def dense(self) -> Products:
        """Products of weights in 16 bits."""
        return Products(bandwidth=self.bandwidth, compute=self.compute, sharpness=self.sharpness)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """Time that no data sheet explains, in seconds, the same for every accelerator.

    Per step, per layer of a step, per sequence in a step, per token of vocabulary and sequence
    (sampling), and per all-reduce between 2 GPUs over NVLink or over PCIe (one more such latency per
    doubling). `interconnect` is the fraction of the link's rate that an all-reduce reaches.

    `request_s`: what the API server spends on a request, one after the other. `elementwise`: fraction
    of memory bandwidth that norms, activations and the like reach (0: not counted). `weight_only`:
    compute of products whose weights are unpacked from fewer bits first, against plain ones.
    `latent_layer_s`: what starting latent attention takes beyond other attention in each layer,
    `index_layer_s` what its index takes besides, `index_token_s` that index for a token of a prompt.
    `expert_skew`: m tokens touch as many experts as m to this power would if they chose evenly.
    """

    step_s: float
    layer_s: float
    sequence_s: float
    vocabulary_s: float
    allreduce_nvlink_s: float
    allreduce_pcie_s: float
    interconnect: float
    request_s: float = 0.0
    elementwise: float = 0.0
    weight_only: float = 1.0
    expert_skew: float = 1.0
    latent_layer_s: float = 0.0
    index_layer_s: float = 0.0
    index_token_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce:
    """All-reduces of one group over one kind of link: latency l, and a fraction of the link's rate.

    Of v bytes at w seconds a byte it takes (l^s + (v w)^s)^(1/s), s the `sharpness`.
    """

    latency_s: float
    fraction: float
    sharpness: float = 1.0


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

    `sampler_bytes`: held per token of vocabulary and sequence on every GPU when the engine tries
    sampling with sorted probabilities to measure its peak; 0 where it does not. `runtime_alone_gib`:
    what libraries hold on a GPU that shares the model with no other.
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
    sampler_bytes: float = 0.0
    runtime_alone_gib: float = 0.6

    def budget(self, large: bool, context_tokens: int) -> int:
        """Most tokens in one step."""
        budget = self.budget_tokens_large if large else self.budget_tokens
        return budget or max(2048, min(context_tokens, MOST_BUDGET))

    def sequences(self, large: bool) -> int:
        """Most sequences in one step where nothing says otherwise."""
        return self.max_num_seqs_large if large else self.max_num_seqs


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One engine generation: schedule, overheads, and efficiency per accelerator.

    An accelerator that was not measured takes `default`; an estimate of none of the `bands` takes
    `band`, or the wider `band_default` where its accelerator was not measured. `links` are
    measured all-reduces by kind of link and GPUs; without them the overheads' latency and rate count.
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
    links: Mapping[str, Mapping[int, AllReduce]] = field(default_factory=dict)
    bands: tuple[BandClass, ...] = ()

    def efficiency(self, accelerator: str) -> Efficiency:
        """Return the constants of `accelerator`."""
        return self.efficiencies.get(accelerator, self.default)

    def has_runs(self, accelerator: str) -> bool:
        """Return whether published runs on `accelerator` stand behind its bands."""
        return not self.bands or any(accelerator in known.accelerators for known in self.bands)

    def error_band(
        self, accelerator: str, model: ModelShape, tensor_parallel: int, regime: Regime
    ) -> ErrorBand:
        """Return how far such estimates may be off: of the first class that holds them."""
        for known in self.bands:
            if known.holds(accelerator, model, tensor_parallel, regime):
                return known.band
        return self.band if accelerator in self.efficiencies else self.band_default
