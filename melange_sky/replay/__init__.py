"""Judge a fleet by the requests that went through it: traffic in, verdict out.

The fleet is judged from the engine's step times, never from the capacities that chose it; simulated
and measured requests end in the same log and are judged by the same `slo` code.
"""

from melange_sky.replay.rollout import FleetStep, Handover, Life, Rollout, plan_counts, rollout_of
from melange_sky.replay.run import Replay, interruptions_per_hour, replay
from melange_sky.replay.stepped import replay_rollout
from melange_sky.replay.stretch import StretchInterval, interval_of_another
from melange_sky.replay.traffic import (
    Traffic,
    sample_stream,
    scaled_rows,
    trace_rows,
)
from melange_sky.replay.verdict import (
    BucketVerdict,
    OptionVerdict,
    Percentiles,
    Simulation,
    Verdict,
    judge_runs,
    ttft_of_bucket,
)
from melange_sky.replay.windows import (
    LONG_REQUESTS,
    STAGES,
    interval_over_windows,
    windows_of,
)

__all__ = [
    "LONG_REQUESTS",
    "STAGES",
    "BucketVerdict",
    "FleetStep",
    "Handover",
    "Life",
    "OptionVerdict",
    "Percentiles",
    "Replay",
    "Rollout",
    "Simulation",
    "StretchInterval",
    "Traffic",
    "Verdict",
    "interruptions_per_hour",
    "interval_of_another",
    "interval_over_windows",
    "judge_runs",
    "plan_counts",
    "replay",
    "replay_rollout",
    "rollout_of",
    "sample_stream",
    "scaled_rows",
    "trace_rows",
    "ttft_of_bucket",
    "windows_of",
]
