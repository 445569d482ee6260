"""Logs of requests, whatever wrote them: read as a stream of times and sizes.

`TraceReader` finds by evidence what a file is (packing, encoding, form, columns, unit and zone of its times,
which requests failed), says so, and yields its requests by the block.
"""

from __future__ import annotations

from melange_sky.traces.block import HashIds, Reading, Tally, TraceBlock, TraceRequest
from melange_sky.traces.options import read_options
from melange_sky.traces.reader import TraceReader, read_trace, trace_blocks
from melange_sky.workload import AS_FOUND, TraceFiles, TraceOptions

__all__ = [
    "AS_FOUND",
    "HashIds",
    "Reading",
    "Tally",
    "TraceBlock",
    "TraceFiles",
    "TraceOptions",
    "TraceReader",
    "TraceRequest",
    "read_options",
    "read_trace",
    "trace_blocks",
]
