"""Judge a fleet by the requests that went through it: traffic in, verdict out.

The fleet is judged from the engine's step times, never from the capacities that chose it; simulated
and measured requests end in the same log and are judged by the same `slo` code.
"""

from melange_sky.replay.run import Replay, interruptions_per_hour, replay
from melange_sky.replay.traffic import Traffic, sample_stream, scaled_trace
from melange_sky.replay.verdict import (
    BucketVerdict,
    OptionVerdict,
    Percentiles,
    Simulation,
    Verdict,
    judge_runs,
)

__all__ = [
    "BucketVerdict",
    "OptionVerdict",
    "Percentiles",
    "Replay",
    "Simulation",
    "Traffic",
    "Verdict",
    "interruptions_per_hour",
    "judge_runs",
    "replay",
    "sample_stream",
    "scaled_trace",
]
