"""How measuring is shown: a measured grid as a table or JSON document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melange_sky.capacity_search import SearchResult
    from melange_sky.profiler import GridReport
    from melange_sky.profiler.bench import CrossCheck
    from melange_sky.profiletable import MeasuredCell
    from melange_sky.slo import SLO

Size = tuple[int, int]


class MeasurementView(Protocol):
    """What was measured, see `planner.measuring.Measurement`."""

    @property
    def report(self) -> GridReport: ...
    @property
    def slo(self) -> SLO: ...
    @property
    def sizes(self) -> Sequence[Size]: ...
    @property
    def check(self) -> CrossCheck | None: ...


def _answers(measured: MeasurementView) -> list[tuple[Size, SearchResult | None]]:
    report = measured.report
    answers = []
    for size in measured.sizes:
        cell = report.table.cell(*size)
        left = cell is None or size in report.inferred or size in report.unmeasured
        answers.append((size, None if left or cell is None else cell.answer(measured.slo)))
    return answers


def measured_document(measured: MeasurementView) -> dict[str, Any]:
    """Return what `profile run --format json` prints."""
    report, slo = measured.report, measured.slo
    provenance = report.table.provenance
    return {
        "table": str(report.path),
        "model": provenance.model,
        "accelerator": f"{provenance.accelerator}:{provenance.accelerator_count}",
        "slo": {
            "tpot_ms": _ms(slo.tpot_s),
            "ttft_ms": _ms(slo.ttft_s),
            "attainment": slo.attainment,
        },
        "cells": [_cell_row(size, a) for size, a in _answers(measured) if a is not None],
        "inferred": [_inferred_row(size, rate) for size, rate in report.inferred.items()],
        "expected_error": report.expected_error,
        "unmeasured": [list(size) for size in report.unmeasured],
        "unmeasured_reasons": list(report.unmeasured.values()),
        "kept": [list(size) for size in report.kept],
        "cross_check": None if measured.check is None else measured.check.as_dict(),
    }


def _cell_row(size: Size, answer: SearchResult) -> dict[str, Any]:
    return {
        "input_tokens": size[0],
        "output_tokens": size[1],
        "max_rate_rps": answer.max_rate_rps,
        "low_rps": answer.low_rps,
        "high_rps": answer.high_rps,
        "resolved": answer.resolved,
        "reason": answer.reason,
        "origin": "measured",
    }


def _inferred_row(size: Size, rate: float) -> dict[str, Any]:
    return {
        "input_tokens": size[0],
        "output_tokens": size[1],
        "max_rate_rps": rate,
        "origin": "interpolated",
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def size_text(size: Size, done: int, total: int) -> str:
    """Return which size is measured now, in a line; `done` of `total` are."""
    return f"[{done + 1}/{total}] input {size[0]}, output {size[1]} …"


def size_done_text(cell: MeasuredCell) -> str:
    """Return what came of one size, in a line."""
    rate = "none" if cell.max_rate_rps is None else f"{cell.max_rate_rps:.4g} req/s"
    return f"    {rate} after {len(cell.probes)} probes, {cell.seconds:.0f} s: {cell.reason}"


def measured_text(measured: MeasurementView) -> str:
    """Return the measured sizes as a table, with their bounds."""
    report, slo = measured.report, measured.slo
    limits = [
        f"{name} ≤ {value * 1e3:g} ms"
        for name, value in (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s))
        if value is not None
    ]
    within = ", ".join(limits) or "no latency limit"
    lines = [
        f"Highest rate for {slo.attainment:.0%} of requests within {within} (measured)",
        f"{'input':>8} {'output':>8} {'req/s':>10}  {'bounds':<20} note",
        *(_line(report, size, answer) for size, answer in _answers(measured)),
    ]
    if report.expected_error is not None:
        lines.append(
            f"together, the rates of these sizes are known within {report.expected_error:.1%} (9 in 10)"
        )
    if measured.check is not None:
        lines.append(measured.check.as_text())
    return "".join(f"{line}\n" for line in lines)


def _line(report: GridReport, size: Size, answer: SearchResult | None) -> str:
    if answer is None and size in report.inferred:
        return f"{size[0]:>8} {size[1]:>8} {report.inferred[size]:>10.4g}  {'':<20} interpolated"
    if answer is None:
        why = report.unmeasured[size]
        return f"{size[0]:>8} {size[1]:>8} {'-':>10}  {'':<20} not measured: {why}"
    rate = "none" if answer.max_rate_rps is None else f"{answer.max_rate_rps:.4g}"
    low = "?" if answer.low_rps is None else f"{answer.low_rps:.4g}"
    high = "?" if answer.high_rps is None else f"{answer.high_rps:.4g}"
    note = answer.reason if not answer.resolved or answer.max_rate_rps is None else ""
    return f"{size[0]:>8} {size[1]:>8} {rate:>10}  {f'{low} … {high}':<20} {note}".rstrip()
