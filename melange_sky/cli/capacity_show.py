"""How capacities are shown: one JSON document, or a matrix per option for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from melange_sky.errors import MelangeError

if TYPE_CHECKING:
    from melange_sky.offers import Offer
    from melange_sky.profiles import CapacityQuery, ReplicaCapacity, ReplicaShape


def document_of(
    given: dict[str, Any], query: CapacityQuery, options: dict[str, ReplicaCapacity]
) -> dict[str, Any]:
    """Return the command's JSON; matrices have rows input, columns output tokens."""
    slo = query.slo
    return {
        "model": query.model.name,
        "engine": given["engine"],
        "generation": query.generation,
        "generation_note": query.engine.generation_note,
        "slo": {
            "tpot_ms": given["tpot_ms"],
            "ttft_ms": given["ttft_ms"],
            "attainment": slo.attainment,
        },
        "input_tokens": [int(row[0]) for row in query.input_sizes],
        "output_tokens": [int(size) for size in query.output_sizes[0]],
        "options": [_option(label, option, query) for label, option in options.items()],
    }


def _option(label: str, option: ReplicaCapacity, query: CapacityQuery) -> dict[str, Any]:
    offer = _cheapest(option.shape)
    price = None if offer is None else offer.price_usd_per_hour
    cells, settings = option.cells, option.settings
    tokens = [
        [i + o for i, o in zip(inputs, outputs, strict=True)]
        for inputs, outputs in zip(query.input_sizes, query.output_sizes, strict=True)
    ]
    costs = [
        [
            None
            if price is None or c.max_rate_rps is None
            else price / 3.6e-3 / (c.max_rate_rps * size)
            for c, size in zip(row, sizes, strict=True)
        ]
        for row, sizes in zip(cells, tokens, strict=True)
    ]
    return {
        "accelerator": label,
        "origin": [
            [c.origin.value if c.origin is not None else None for c in row] for row in cells
        ],
        "max_rate_rps": [[c.max_rate_rps for c in row] for row in cells],
        "reasons": [[c.reason for c in row] for row in cells],
        "low_rps": [[c.low_rps for c in row] for row in cells],
        "high_rps": [[c.high_rps for c in row] for row in cells],
        "usd_per_million_tokens": costs,
        "price_usd_per_hour": price,
        "price_source": None if offer is None else offer.source,
        "price_as_of": None if offer is None else offer.as_of,
        "tensor_parallel": option.shape.tensor_parallel,
        "data_parallel": option.shape.data_parallel,
        "max_num_seqs": None if settings is None else settings.max_num_seqs,
        "kv_cache_tokens": None if settings is None else settings.kv_cache_tokens,
        "reason": option.reason,
    }


def _cheapest(shape: ReplicaShape) -> Offer | None:
    """Return the cheapest unflagged on-demand offer of the replica's GPUs that is known offline."""
    from melange_sky.pricing import OfferQuery, load_offers

    try:
        book = load_offers(
            OfferQuery(accelerators=(f"{shape.accelerator}:{shape.gpus}",), offline=True)
        )
    except MelangeError:
        return None
    sold = [o for o in book.offers if o.price_usd_per_hour and not o.blocked(False)]
    return min(sold, key=lambda o: (o.price_usd_per_hour or 0.0, o.cloud, o.region), default=None)


_MARKS = {"measured": "m", "given": "g", "interpolated": "i", "estimated": "e", None: " "}
_SHADES = (17, 18, 24, 30, 36, 71, 107, 143, 179, 208)


def print_matrices(document: dict[str, Any], heat: bool) -> None:
    """Print one matrix per option: rows input, columns output tokens."""
    click.echo(
        f"{document['model']} on engine {document['engine']}: highest requests per second within the SLO"
    )
    click.echo(
        "m measured, i interpolated, e estimated; $/M: US dollars per million tokens, input and output"
    )
    reasons: dict[str, str] = {}
    rates = [
        r for o in document["options"] for row in o["max_rate_rps"] for r in row if r is not None
    ]
    for option in document["options"]:
        price = option["price_usd_per_hour"]
        told = (
            "no price known"
            if price is None
            else f"${price:.2f}/h, {option['price_source']}, {option['price_as_of']}"
        )
        split = f"tp {option['tensor_parallel']} × dp {option['data_parallel']}"
        click.echo(f"\n{option['accelerator']} ({split}; {told})")
        if option["reason"]:
            click.echo(f"  {option['reason']}")
            continue
        click.echo(f"{'in / out':>9}" + "".join(f"{o:>22}" for o in document["output_tokens"]))
        for i, size in enumerate(document["input_tokens"]):
            cells = [
                _cell(option, (i, j), reasons, rates if heat else [])
                for j in range(len(document["output_tokens"]))
            ]
            click.echo(f"{size:>9}" + "".join(cells))
    for text, mark in reasons.items():
        click.echo(f"{mark} {text}")


def _cell(
    option: dict[str, Any], at: tuple[int, int], reasons: dict[str, str], scale: Sequence[float]
) -> str:
    i, j = at
    rate, cost = option["max_rate_rps"][i][j], option["usd_per_million_tokens"][i][j]
    if rate is None:
        mark = reasons.setdefault(option["reasons"][i][j] or "", f"[{len(reasons) + 1}]")
        return f"{mark:>22}"
    told = "" if cost is None else f" ${cost:.3g}/M"
    text = f"{rate:.3g} {_MARKS[option['origin'][i][j]]}{told}".rjust(22)
    if not scale or max(scale) <= min(scale):
        return text
    place = math.log(rate / min(scale)) / math.log(max(scale) / min(scale))
    return click.style(text, fg=255, bg=_SHADES[min(len(_SHADES) - 1, int(place * len(_SHADES)))])
