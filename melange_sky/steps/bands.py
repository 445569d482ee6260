"""How far an estimate may be off: by card, number format, dense or mixture of experts, and regime."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from melange_sky.models import ModelShape

Regime = Literal["small batch", "saturated", "long context"]
"""What limits a replica at a request size: few sequences at a time, long prompts, or neither."""

REGIMES: tuple[Regime, ...] = ("small batch", "saturated", "long context")
_LONG_TOKENS, _FEW_SEQUENCES = 16000, 16
_END = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBand:
    """True ÷ estimated throughput lies in [low, high] for about 90 % of the data it comes from."""

    low: float
    high: float
    basis: str

    def at(self, confidence: float) -> float:
        """Return what true ÷ estimated throughput reaches with this probability.

        On each side of 1 its logarithm is taken as normal, with the band's end at 5 %.

        >>> band = ErrorBand(low=0.5, high=1.5, basis="")
        >>> band.at(0.5), round(band.at(0.95), 3)
        (1.0, 0.5)
        """
        z = NormalDist().inv_cdf(confidence) / _END
        end: float = self.low**z if z > 0 else self.high**-z
        return end

    def wider(self, factor: float) -> ErrorBand:
        """Return a band whose ends lie further apart by a factor each."""
        return replace(self, low=self.low / factor, high=self.high * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class BandClass:
    """A band and what it holds for; an empty tuple or None: for all.

    `kind` is "dense", "moe" or "latent" (attention over compressed latents), `bits` of a weight 16, 8
    or 4, `split` whether tensor parallelism is used.
    """

    band: ErrorBand
    accelerators: tuple[str, ...] = ()
    kind: str | None = None
    bits: int | None = None
    split: bool | None = None
    regime: str | None = None

    def holds(
        self, accelerator: str, model: ModelShape, tensor_parallel: int, regime: Regime
    ) -> bool:
        """Return whether an estimate is of this class."""
        return (
            (not self.accelerators or accelerator in self.accelerators)
            and self.kind in (None, kind_of(model))
            and self.bits in (None, bits_of(model))
            and self.split in (None, tensor_parallel > 1)
            and self.regime in (None, regime)
        )


def kind_of(model: ModelShape) -> str:
    """Return "latent", "moe" or "dense"."""
    if any(group.latent for group in model.groups):
        return "latent"
    return "dense" if model.experts is None else "moe"


def bits_of(model: ModelShape) -> int:
    """Return the bits of most weights: 16, 8 or 4."""
    each = model.weight_dtype_bytes
    if each > 1.5:
        return 16
    return 8 if each > 0.9 else 4


def regime_of(input_tokens: float, sequences: float) -> Regime:
    """Return the regime of requests of so many input tokens, so many of them served at a time."""
    if input_tokens >= _LONG_TOKENS:
        return "long context"
    return "small batch" if sequences <= _FEW_SEQUENCES else "saturated"
