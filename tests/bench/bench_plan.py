"""Wall time of `melange-sky plan examples/chat.yaml --offline` beside `python -c "import sky"`.

The two run in turn, so that the ratio holds where the machine's speed drifts, and both on compiled
bytecode, as installed programs do. Run: `make bench`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import Beside, Figure, note

ROOT = Path(__file__).resolve().parents[2]
RUNS = 7
GOAL = 0.35
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True
    )
    return time.perf_counter() - start


def main() -> None:
    """Print the median times and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        plan = [
            "-m",
            "melange_sky",
            "plan",
            "examples/chat.yaml",
            "--offline",
            "-o",
            f"{folder}/plan",
        ]
        sky = ["-c", "import sky"]
        _seconds(plan)
        _seconds(sky)
        pairs = [(_seconds(plan), _seconds(sky)) for _ in range(RUNS)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    note(
        Figure(
            what="plan of the shipped example",
            ours=ours,
            rival=Beside(name="import sky", value=theirs),
            at_most=GOAL * theirs,
            note=f"median of {RUNS} ratios {ratio:.3f} (goal {GOAL})",
        )
    )


if __name__ == "__main__":
    main()
