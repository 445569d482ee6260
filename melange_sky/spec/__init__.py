"""The spec: untrusted YAML, JSON or traces in, checked values out.

`load_spec` reads a spec or Mélange's own JSON config and tells every problem at once; `trace_files`
takes request traces as workloads; `histogram` turns requests into a workload and writes it for a spec.
Each part is loaded when it is first asked for: few specs have a trace, and a trace is read without a spec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.exports import exported_from

if TYPE_CHECKING:
    from melange_sky.spec.histogram import Histogram, histogram_yaml
    from melange_sky.spec.histogram_builder import HistogramBuilder, build_histogram
    from melange_sky.spec.load import SpecSource, load_own_spec, load_spec, source_name
    from melange_sky.spec.mapping import DICT_PATH
    from melange_sky.spec.trace_files import blocks_of, files_of, options_of, trace_name
    from melange_sky.spec.values import (
        AcceleratorChoice,
        CheckpointChoice,
        CurrentInstances,
        MelangeConfig,
        Redundancy,
        Resources,
        ServedModel,
        Spec,
    )

_HOMES = {
    "AcceleratorChoice": "values",
    "CheckpointChoice": "values",
    "CurrentInstances": "values",
    "DICT_PATH": "mapping",
    "Histogram": "histogram",
    "HistogramBuilder": "histogram_builder",
    "blocks_of": "trace_files",
    "build_histogram": "histogram_builder",
    "files_of": "trace_files",
    "histogram_yaml": "histogram",
    "load_own_spec": "load",
    "load_spec": "load",
    "MelangeConfig": "values",
    "options_of": "trace_files",
    "Redundancy": "values",
    "Resources": "values",
    "ServedModel": "values",
    "source_name": "load",
    "Spec": "values",
    "SpecSource": "load",
    "trace_name": "trace_files",
}
"""What is loaded by its name → the module that has it."""

__all__ = [
    "DICT_PATH",
    "AcceleratorChoice",
    "CheckpointChoice",
    "CurrentInstances",
    "Histogram",
    "HistogramBuilder",
    "MelangeConfig",
    "Redundancy",
    "Resources",
    "ServedModel",
    "Spec",
    "SpecSource",
    "blocks_of",
    "build_histogram",
    "files_of",
    "histogram_yaml",
    "load_own_spec",
    "load_spec",
    "options_of",
    "source_name",
    "trace_name",
]

__getattr__ = exported_from(__name__, _HOMES)
