"""Where batching more stops paying: `--max-num-seqs` of an option for a model and an SLO."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from melange_sky.steps.estimate import decode_step_s, round_batch
from melange_sky.steps.request_sizes import RequestSizes
from melange_sky.steps.stacked import held_sequences

if TYPE_CHECKING:
    from melange_sky.slo import SLO
    from melange_sky.steps.replica import ReplicaModel

_LADDER = np.array(sorted({float(n) for n in np.round(np.geomspace(1, 1024, 200))}))


def knee_batch(replica: ReplicaModel, load: RequestSizes, slo: SLO) -> int:
    """Return the most sequences worth running at once, the largest over the sizes of `load`.

    Per size: at most what the KV cache holds; with a TPOT limit, at most the batch whose pure decode
    step is that long (more could only be served outside the SLO). Throughput rises with the batch, so
    without a limit it is all that the cache holds, and a looser limit never gives less. It depends on
    option, model, SLO and sizes, never on rates.
    """
    cells = RequestSizes(
        input_tokens=load.input_tokens[:, None], output_tokens=load.output_tokens[:, None]
    )
    held = held_sequences(replica, cells)
    knees = held[:, 0]
    if slo.tpot_s is not None:
        good = decode_step_s(replica, cells, _LADDER) <= slo.tpot_s
        knees = np.minimum(knees, np.where(good, _LADDER, 1.0).max(axis=1))
    return round_batch(min(float(knees.max(initial=1.0)), replica.max_num_seqs))
