"""A look as the page that a server would show, in Prometheus's text form."""

from __future__ import annotations

from melange_sky.engines import engine_named
from melange_sky.learning import Scrape, Sizes

ENGINE = engine_named("vllm")


def page_of(look: Scrape, model: str = "m", engines: int = 1) -> str:
    """Return the page; figures of several engines are split evenly, as each has labels of its own."""
    names = {short: name for name, short in ENGINE.metrics.items()}
    lines = []
    for engine in range(engines):
        labels = f'engine="{engine}",model_name="{model}"'
        for short, value in look.figures.items():
            share = value if short == "kv_use" else value / engines
            lines.append(f"{names[short]}{{{labels}}} {share!r}")
        for base, short in ENGINE.histograms.items():
            lines.extend(_histogram(base, labels, getattr(look, short), engines))
    return "# HELP of no interest\n" + "\n".join(lines) + "\n"


def _histogram(base: str, labels: str, sizes: Sizes, engines: int) -> list[str]:
    lines = [
        f'{base}_bucket{{{labels},le="{"+Inf" if edge == float("inf") else edge}"}} {count / engines!r}'
        for edge, count in zip(sizes.edges, sizes.counts, strict=True)
    ]
    return [*lines, f"{base}_sum{{{labels}}} {sizes.tokens / engines!r}"]
