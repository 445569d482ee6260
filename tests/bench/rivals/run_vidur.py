"""Run by the interpreter of vidur's own environment: `run_vidur.py STREAM.csv REPLICAS`.

Prints one JSON object: seconds that the event loop took, requests sent and completed. Vidur's step times come from data sets that it fetches from the network; here they are linear
laws of a like size instead, so that its event loop, which is what is timed, runs as it is. It knows one
kind of replica only, so the fleet is eight like ones.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

import pandas as pd
from vidur.config import (
    CacheConfig,
    ClusterConfig,
    LORGlobalSchedulerConfig,
    MetricsConfig,
    RandomForrestExecutionTimePredictorConfig,
    ReplicaConfig,
    SimulationConfig,
    TraceRequestGeneratorConfig,
    VllmSchedulerConfig,
)
from vidur.execution_time_predictor.sklearn_execution_time_predictor import (
    SklearnExecutionTimePredictor,
)
from vidur.simulator import Simulator

MODEL = "meta-llama/Llama-3-8B"
FIXED_MS, TOKEN_MS = 0.02, 2e-5


def _linear(_self, _name, _kind, _model, rows):
    values = FIXED_MS + TOKEN_MS * rows.to_numpy(dtype=float).sum(axis=1)
    return dict(zip(map(tuple, rows.to_numpy().tolist()), values.tolist(), strict=True))


class _Any(dict):
    def __missing__(self, _key):
        return None


def main(path: str, replicas: int) -> None:
    SklearnExecutionTimePredictor._get_model_prediction = _linear
    SklearnExecutionTimePredictor._load_predictions_from_hf = lambda self: (
        self._predict_from_models(_Any())
    )
    rows = pd.read_csv(path)
    with tempfile.TemporaryDirectory() as folder:
        trace = f"{folder}/trace.csv"
        pd.DataFrame(
            {
                "Date": "d",
                "Time": rows["arrival_s"],
                "PromptTokenCount": rows["input_tokens"],
                "CompletionTokenCount": rows["output_tokens"],
            }
        ).to_csv(trace, index=False)
        config = SimulationConfig(
            log_level="error",
            cluster_config=ClusterConfig(
                num_replicas=replicas,
                replica_config=ReplicaConfig(
                    model_name=MODEL, device="h100", num_pipeline_stages=1, tensor_parallel_size=1
                ),
                cache_config=CacheConfig(enable_prefix_caching=False),
                global_scheduler_config=LORGlobalSchedulerConfig(),
                replica_scheduler_config=VllmSchedulerConfig(
                    batch_size_cap=256, max_tokens_in_batch=16384
                ),
            ),
            request_generator_config=TraceRequestGeneratorConfig(
                trace_file=trace,
                date="d",
                max_tokens=16384,
                time_scale_factor=1.0,
                prefill_scale_factor=1.0,
                decode_scale_factor=1.0,
            ),
            execution_time_predictor_config=RandomForrestExecutionTimePredictorConfig(
                cache_dir=f"{folder}/cache",
                no_cache=True,
                kv_cache_prediction_granularity=1024,
                prediction_max_prefill_chunk_size=16384,
                prediction_max_batch_size=256,
                prediction_max_tokens_per_request=16384,
            ),
            metrics_config=MetricsConfig(
                write_metrics=False,
                store_plots=False,
                output_dir=folder,
                store_operation_metrics=False,
                store_token_completion_metrics=False,
                store_batch_metrics=False,
                store_utilization_metrics=False,
                enable_chrome_trace=False,
            ),
        )
        simulator = Simulator(config)
        began = time.process_time()
        simulator.run()
        spent = time.process_time() - began
    print(json.dumps({"seconds": spent, "requests": len(rows), "ended_s": simulator._time}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
