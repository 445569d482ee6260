"""Add tables of cards that some instance types link otherwise than usual (catalogs/topology.csv).

python profiling/linked_tables.py && python profiling/points.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from melange_sky.planner.capacity import CapacityOptions, ask_capacity, write_estimates

FILE = Path(__file__).parent / "estimates.json"
MODELS = (
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-3.1-70B-Instruct",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-32B",
)
OVER_PCIE = "A100:2,A100-80GB:2"
SIZES = "25,100,250,500,1000,2000,4000,8000,16000", "25,100,250,500,1000,2000"


def main() -> None:
    """Write one table per model and card in groups of two over PCIe."""
    for model in MODELS:
        inputs, outputs = SIZES
        asked = ask_capacity(
            CapacityOptions(
                model=model,
                accelerators=OVER_PCIE,
                inputs=inputs,
                outputs=outputs,
                tpot_ms=60,
                ttft_ms=2000,
            )
        )
        shapes = {
            label: [replace(shape, links="pcie") for shape in group if shape.tensor_parallel == 2]
            for label, group in asked.shapes.items()
        }
        count = write_estimates(replace(asked, shapes=shapes), FILE, __doc__.split("\n")[2].strip())
        print(f"{model}: {count} tables")


if __name__ == "__main__":
    main()
