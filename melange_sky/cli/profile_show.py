"""How measuring is shown: progress on stderr, the table or one JSON document on stdout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from melange_sky.capacity_search import SearchResult
    from melange_sky.profiler import GridReport, Progress
    from melange_sky.slo import SLO


def progress() -> Progress:
    """Return callbacks that tell each cell on stderr."""
    from melange_sky.profiler import Progress

    def on_cell(size: tuple[int, int], done: int, total: int) -> None:
        click.echo(f"[{done + 1}/{total}] input {size[0]}, output {size[1]} …", err=True)

    def on_done(cell: Any) -> None:
        rate = "none" if cell.max_rate_rps is None else f"{cell.max_rate_rps:.4g} req/s"
        click.echo(
            f"    {rate} after {len(cell.probes)} probes, {cell.seconds:.0f} s: {cell.reason}",
            err=True,
        )

    return Progress(on_cell=on_cell, on_done=on_done)


def _answers(
    report: GridReport, slo: SLO, sizes: Sequence[tuple[int, int]]
) -> list[tuple[tuple[int, int], SearchResult | None]]:
    found = []
    for size in sizes:
        cell = report.table.cell(*size)
        left = cell is None or size in report.inferred or size in report.unmeasured
        found.append((size, None if left or cell is None else cell.answer(slo)))
    return found


def document(
    report: GridReport, slo: SLO, sizes: Sequence[tuple[int, int]], check: Any
) -> dict[str, Any]:
    """Return what `--format json` prints."""
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
        "cells": [
            {
                "input_tokens": size[0],
                "output_tokens": size[1],
                "max_rate_rps": answer.max_rate_rps,
                "low_rps": answer.low_rps,
                "high_rps": answer.high_rps,
                "resolved": answer.resolved,
                "reason": answer.reason,
                "origin": "measured",
            }
            for size, answer in _answers(report, slo, sizes)
            if answer is not None
        ],
        "inferred": [
            {
                "input_tokens": size[0],
                "output_tokens": size[1],
                "max_rate_rps": rate,
                "origin": "interpolated",
            }
            for size, rate in report.inferred.items()
        ],
        "expected_error": report.expected_error,
        "unmeasured": [list(size) for size in report.unmeasured],
        "unmeasured_reasons": list(report.unmeasured.values()),
        "kept": [list(size) for size in report.kept],
        "cross_check": check.as_dict() if check is not None else None,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def print_report(
    report: GridReport, slo: SLO, sizes: Sequence[tuple[int, int]], check: Any
) -> None:
    """Print the cells as a table."""
    limits = [
        f"{name} ≤ {value * 1e3:g} ms"
        for name, value in (("TTFT", slo.ttft_s), ("TPOT", slo.tpot_s))
        if value is not None
    ]
    asked = ", ".join(limits) or "no latency limit"
    click.echo(f"Highest rate for {slo.attainment:.0%} of requests within {asked} (measured)")
    click.echo(f"{'input':>8} {'output':>8} {'req/s':>10}  {'bounds':<20} note")
    for size, answer in _answers(report, slo, sizes):
        if answer is None and size in report.inferred:
            click.echo(
                f"{size[0]:>8} {size[1]:>8} {report.inferred[size]:>10.4g}  {'':<20} interpolated"
            )
            continue
        if answer is None:
            why = report.unmeasured[size]
            click.echo(f"{size[0]:>8} {size[1]:>8} {'-':>10}  {'':<20} not measured: {why}")
            continue
        rate = "none" if answer.max_rate_rps is None else f"{answer.max_rate_rps:.4g}"
        low = "?" if answer.low_rps is None else f"{answer.low_rps:.4g}"
        high = "?" if answer.high_rps is None else f"{answer.high_rps:.4g}"
        note = answer.reason if not answer.resolved or answer.max_rate_rps is None else ""
        click.echo(f"{size[0]:>8} {size[1]:>8} {rate:>10}  {f'{low} … {high}':<20} {note}".rstrip())
    if report.expected_error is not None:
        click.echo(
            f"rates of these sizes taken together are known within {report.expected_error:.1%} (9 in 10)"
        )
    if check is not None:
        click.echo(check.as_text())
    click.echo(f"table: {report.path}", err=True)
