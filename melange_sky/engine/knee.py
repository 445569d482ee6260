"""Where batching more stops paying: `--max-num-seqs` of an option for a model and an SLO."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.engine.estimate import Load, decode_step_s, held_sequences, rate_at, round_batch

if TYPE_CHECKING:
    from melange_sky.engine.replica import ReplicaModel
    from melange_sky.slo import SLO

GAIN = 0.9
"""Without a TPOT limit the knee is where this fraction of the most throughput is reached."""

_LADDER = np.unique(np.round(np.geomspace(1, 1024, 200)))


def knee_batch(replica: ReplicaModel, load: Load, slo: SLO) -> int:
    """Return the most sequences worth running at once, the largest over the sizes of `load`.

    Per size: at most what the KV cache holds; with a TPOT limit, at most the batch whose pure decode
    step is that long (more could only be served outside the SLO); without one, the batch that reaches
    90 % of the highest throughput. It depends on option, model, SLO and sizes, never on rates.
    """
    knees = [_knee(replica, _one(load, cell), slo) for cell in range(len(load.input_tokens))]
    return round_batch(min(max(knees, default=1.0), replica.max_num_seqs))


def _one(load: Load, cell: int) -> Load:
    size = slice(cell, cell + 1)
    return Load(
        input_tokens=np.repeat(load.input_tokens[size], len(_LADDER)),
        output_tokens=np.repeat(load.output_tokens[size], len(_LADDER)),
    )


def _knee(replica: ReplicaModel, load: Load, slo: SLO) -> float:
    held = float(held_sequences(replica, load)[0])
    if slo.tpot_s is not None:
        good = decode_step_s(replica, load, _LADDER) <= slo.tpot_s
        return min(held, float(_LADDER[good].max(initial=1.0)))
    possible = _LADDER[: max(1, int(np.searchsorted(_LADDER, held, side="right")))]
    rates = rate_at(replica, load, _LADDER)[: len(possible)]
    return float(possible[np.argmax(rates >= GAIN * rates.max())])
