"""The spec: untrusted YAML, JSON or traces in, checked values out.

`load_spec` reads a spec or Mélange's own JSON config and tells every problem at once; `trace_files`
takes request traces as workloads; `histogram` turns requests into a workload and writes it for a spec.
"""

from __future__ import annotations

from melange_sky.spec.histogram import Histogram, HistogramBuilder, build_histogram, histogram_yaml
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
