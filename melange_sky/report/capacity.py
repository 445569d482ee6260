"""How capacities are shown: one JSON document, or a matrix per option for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from melange_sky.capacities import CapacityCell
    from melange_sky.offers import Offer
    from melange_sky.profiles import CapacityQuery, ReplicaCapacity, ReplicaShape


class LimitsView(Protocol):
    """The limits as they were given, see `planner.capacity.CapacityOptions`."""

    @property
    def tpot_ms(self) -> float | None: ...
    @property
    def ttft_ms(self) -> float | None: ...


class OptionView(Protocol):
    """One option, see `planner.capacity.OptionCapacities`."""

    @property
    def label(self) -> str: ...
    @property
    def replica(self) -> ReplicaCapacity: ...
    @property
    def offer(self) -> Offer | None: ...
    @property
    def price_usd_per_hour(self) -> float | None: ...
    @property
    def refused(self) -> Sequence[tuple[int, str]]: ...


class CapacityView(Protocol):
    """What each option carries, see `planner.capacity.CapacityAnswer`."""

    @property
    def options(self) -> LimitsView: ...
    @property
    def query(self) -> CapacityQuery: ...
    @property
    def rows(self) -> Sequence[OptionView]: ...


Paint = Callable[[str, float], str]
"""Colours a cell's text by where its rate lies between the lowest (0) and the highest (1)."""

_MARKS = {
    "measured": "m",
    "given": "g",
    "observed": "o",
    "interpolated": "i",
    "calibrated": "c",
    "estimated": "e",
}
_WIDTH = 22


def capacity_document(answer: CapacityView) -> dict[str, Any]:
    """Return the command's JSON; matrices have rows input, columns output tokens."""
    query = answer.query
    return {
        "model": query.model.name,
        "engine": query.engine_label,
        "generation": query.generation,
        "generation_note": query.engine.generation_note,
        "slo": {
            "tpot_ms": answer.options.tpot_ms,
            "ttft_ms": answer.options.ttft_ms,
            "attainment": query.slo.attainment,
        },
        "input_tokens": [int(row[0]) for row in query.input_sizes],
        "output_tokens": [int(size) for size in query.output_sizes[0]],
        "options": [_option(row, query) for row in answer.rows],
    }


def _option(row: OptionView, query: CapacityQuery) -> dict[str, Any]:
    replica, offer = row.replica, row.offer
    cells, settings = replica.cells, replica.settings
    return {
        "accelerator": row.label,
        "origin": [[None if c.origin is None else c.origin.value for c in line] for line in cells],
        "max_rate_rps": [[c.max_rate_rps for c in line] for line in cells],
        "reasons": [[c.reason for c in line] for line in cells],
        "low_rps": [[c.low_rps for c in line] for line in cells],
        "high_rps": [[c.high_rps for c in line] for line in cells],
        "usd_per_million_tokens": usd_per_million_tokens(row, query),
        "price_usd_per_hour": row.price_usd_per_hour,
        "price_source": None if offer is None else offer.source,
        "price_as_of": None if offer is None else offer.as_of,
        "tensor_parallel": replica.shape.tensor_parallel,
        "pipeline_parallel": replica.shape.pipeline_parallel,
        "data_parallel": replica.shape.data_parallel,
        "expert_parallel": replica.shape.expert_parallel,
        "nodes": replica.shape.nodes,
        "max_num_seqs": None if settings is None else settings.max_num_seqs,
        "kv_cache_tokens": None if settings is None else settings.kv_cache_tokens,
        "reason": replica.reason,
        "refused_splits": [
            {"tensor_parallel": tensor, "reason": reason} for tensor, reason in row.refused
        ],
    }


def usd_per_million_tokens(row: OptionView, query: CapacityQuery) -> list[list[float | None]]:
    """Return what a million tokens, input and output, cost in each cell; None where unknown."""
    price = row.price_usd_per_hour
    return [
        [
            None
            if price is None or cell.max_rate_rps is None
            else price / 3.6e-3 / (cell.max_rate_rps * (i + o))
            for cell, i, o in zip(cells, inputs, outputs, strict=True)
        ]
        for cells, inputs, outputs in zip(
            row.replica.cells, query.input_sizes, query.output_sizes, strict=True
        )
    ]


def capacity_text(answer: CapacityView, paint: Paint | None = None) -> str:
    """Return one matrix per option, rows input and columns output tokens, and the reasons below."""
    query = answer.query
    lines = [
        f"{query.model.name} on engine {query.engine_label}: highest requests per second within the SLO",
        "m measured, o observed, i interpolated, c calibrated, e estimated; $/M: US dollars per million tokens, input and output",
    ]
    reasons: dict[str, str] = {}
    shade = None if paint is None else _scaled(paint, answer)
    for row in answer.rows:
        lines += _option_lines(row, query, reasons, shade)
    lines += [f"{mark} {text}" for text, mark in reasons.items()]
    return "".join(f"{line}\n" for line in lines)


def _option_lines(
    row: OptionView,
    query: CapacityQuery,
    reasons: dict[str, str],
    shade: Callable[[str, float], str] | None,
) -> list[str]:
    offer = row.offer
    price = (
        "no price known"
        if offer is None
        else f"${row.price_usd_per_hour:.2f}/h, {offer.source}, {offer.as_of}"
    )
    lines = ["", f"{row.label} ({_split_text(row.replica.shape)}; {price})"]
    if row.replica.reason:
        lines.append(f"  {row.replica.reason}")
    if row.refused:
        sizes = ", ".join(str(tensor) for tensor, _ in row.refused)
        lines.append(f"  not in tp {sizes}: {row.refused[0][1]}")
    if row.replica.reason:
        return lines
    lines.append(f"{'in / out':>9}" + "".join(f"{int(o):>{_WIDTH}}" for o in query.output_sizes[0]))
    costs = usd_per_million_tokens(row, query)
    for line, inputs, prices in zip(row.replica.cells, query.input_sizes, costs, strict=True):
        texts = [_cell(*pair, reasons, shade) for pair in zip(line, prices, strict=True)]
        lines.append(f"{int(inputs[0]):>9}" + "".join(texts))
    return lines


def _split_text(shape: ReplicaShape) -> str:
    parts = [f"tp {shape.tensor_parallel}"]
    if shape.pipeline_parallel > 1:
        parts.append(f"pp {shape.pipeline_parallel}")
    parts.append(f"dp {shape.data_parallel}")
    text = " × ".join(parts)
    if shape.expert_parallel:
        text += ", experts spread"
    return text if shape.nodes == 1 else f"{text} on {shape.nodes} instances"


def _cell(
    cell: CapacityCell,
    usd: float | None,
    reasons: dict[str, str],
    shade: Callable[[str, float], str] | None,
) -> str:
    if cell.max_rate_rps is None:
        mark = reasons.setdefault(cell.reason or "", f"[{len(reasons) + 1}]")
        return f"{mark:>{_WIDTH}}"
    cost = "" if usd is None else f" ${usd:.3g}/M"
    mark = " " if cell.origin is None else _MARKS[cell.origin.value]
    text = f"{cell.max_rate_rps:.3g} {mark}{cost}".rjust(_WIDTH)
    return text if shade is None else shade(text, cell.max_rate_rps)


def _scaled(paint: Paint, answer: CapacityView) -> Callable[[str, float], str] | None:
    """Return `paint` by rate, on a logarithmic scale over all options; None where all are equal."""
    rates = [
        cell.max_rate_rps
        for row in answer.rows
        for line in row.replica.cells
        for cell in line
        if cell.max_rate_rps is not None
    ]
    if not rates or max(rates) <= min(rates):
        return None
    low, span = min(rates), math.log(max(rates) / min(rates))
    return lambda text, rate: paint(text, math.log(rate / low) / span)
