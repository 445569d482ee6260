"""Run by a test in a process of its own: how many replicas SkyServe's own autoscaler aims at.

stdin: JSON {file name: {text: YAML text, rates: [requests per second]}}. stdout: JSON {file name: verdict}.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def judge(text: str, rates: list[float]) -> dict[str, Any]:
    """Return the bounds as SkyPilot reads them, and the target at each rate over the last minute."""
    from sky.serve import autoscalers, service_spec

    spec = service_spec.SkyServiceSpec.from_yaml_str(text)
    scaler = autoscalers.Autoscaler.from_spec("sample", spec)
    targets = []
    for rate in rates:
        now = time.time()
        scaler.request_timestamps = []
        scaler.collect_request_information({"timestamps": [now] * round(60 * rate)})
        targets.append(scaler._calculate_target_num_replicas())
    return {
        "kind": type(scaler).__name__,
        "bounds": [spec.min_replicas, spec.max_replicas],
        "starts_with": scaler.get_final_target_num_replicas(),
        "delays_s": [spec.upscale_delay_seconds, spec.downscale_delay_seconds],
        "targets": targets,
    }


def main() -> None:
    asked = json.load(sys.stdin)
    print(
        "ANSWER "
        + json.dumps({name: judge(one["text"], one["rates"]) for name, one in asked.items()})
    )


if __name__ == "__main__":
    main()
