"""Mélange's own JSON config, taken as it is: costs and throughputs come from the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melange_sky.spec.schema import MelangeGpu, MelangeSection
from melange_sky.spec.values import MelangeConfig
from melange_sky.workload import DEFAULT_INPUT_EDGES, DEFAULT_OUTPUT_EDGES, Matrix, Workload

if TYPE_CHECKING:
    from melange_sky.spec.problems import Problems
    from melange_sky.spec.yaml_source import KeyPath

_KEYS = {"gpu_info", "workload_distribution", "total_request_rate", "slice_factor"}


def is_melange(raw: dict[str, Any]) -> bool:
    """Return whether a document is Mélange's config: it has its words and none of a spec's."""
    return len(_KEYS & set(raw)) >= 2 and not {"model", "models", "slo"} & set(raw)


def read_melange(raw: dict[str, Any], problems: Problems) -> MelangeConfig | None:
    """Return the config, or None with its problems noted."""
    section = problems.section(MelangeSection, raw, ())
    infos = raw.get("gpu_info")
    gpus = {
        label: problems.section(MelangeGpu, info, ("gpu_info", label))
        for label, info in (infos.items() if isinstance(infos, dict) else ())
    }
    if section is None:
        return None
    weights = section.workload_distribution
    shape = len(weights), len(weights[0])
    good = _check_shape(weights, shape, problems, ("workload_distribution",))
    if not any(map(any, weights)):
        problems.add(("workload_distribution",), "is empty: no weight is above 0")
        good = False
    for label, gpu in gpus.items():
        at: KeyPath = ("gpu_info", label, "tputs")
        good &= gpu is not None and _check_shape(gpu.tputs, shape, problems, at)
    if not good:
        return None
    return MelangeConfig(
        gpus=tuple((label, g.cost, _matrix(g.tputs)) for label, g in gpus.items() if g is not None),
        workload=_workload(section, shape),
        slice_factor=section.slice_factor,
        path=problems.file,
    )


def _check_shape(
    rows: list[list[float]], shape: tuple[int, int], problems: Problems, at: KeyPath
) -> bool:
    if shape[1] and len(rows) == shape[0] and all(len(row) == shape[1] for row in rows):
        return True
    expected = f"{shape[0]} × {shape[1]}" if shape[1] else "at least 1 × 1"
    problems.add(at, f"must be {expected} numbers, as workload_distribution's first row says")
    return False


def _matrix(rows: list[list[float]]) -> Matrix:
    return tuple(tuple(map(float, row)) for row in rows)


def _workload(section: MelangeSection, shape: tuple[int, int]) -> Workload:
    """Return the workload on Mélange's own grid where the shape is its 10 × 6, else on 0, 1, 2, …

    The file names no sizes: nothing is computed from them, they only label the buckets.
    """
    mine = shape == (len(DEFAULT_INPUT_EDGES) - 1, len(DEFAULT_OUTPUT_EDGES) - 1)
    inputs = DEFAULT_INPUT_EDGES if mine else tuple(range(shape[0] + 1))
    outputs = DEFAULT_OUTPUT_EDGES if mine else tuple(range(shape[1] + 1))
    rate_rps = section.total_request_rate
    return Workload(
        input_edges=inputs,
        output_edges=outputs,
        rates_rps=tuple(tuple(rate_rps * w for w in row) for row in section.workload_distribution),
        input_sizes=tuple((float(edge),) * shape[1] for edge in inputs[1:]),
        output_sizes=tuple(tuple(map(float, outputs[1:])) for _ in range(shape[0])),
        source="Mélange config",
    )
