"""Derive the shipped distributions that rest on published means, and print them.

    python catalogs/distributions/derive.py short-chat > catalogs/distributions/short-chat.yaml
    python catalogs/distributions/derive.py long-document > catalogs/distributions/long-document.yaml

Input and output sizes are independent lognormals with the published means; only the means are
published, so the spread is an assumption and each file says so. `azure-conv-2023` comes from the
trace itself: ``melange-sky workload AzureLLMInferenceTrace_conv.csv -o …``.
"""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass

from melange_sky.spec.histogram import Histogram, histogram_yaml
from melange_sky.workload import DEFAULT_INPUT_EDGES, DEFAULT_OUTPUT_EDGES, Coverage


@dataclass(frozen=True)
class Lognormal:
    """A lognormal by its mean and the standard deviation of its logarithm."""

    mean: float
    sigma: float

    @property
    def mu(self) -> float:
        return math.log(self.mean) - self.sigma**2 / 2

    def below(self, x: float) -> float:
        """P(X ≤ x)."""
        return _normal((math.log(x) - self.mu) / self.sigma) if x > 0 else 0.0

    def mass_below(self, x: float) -> float:
        """E[X; X ≤ x]."""
        if x <= 0:
            return 0.0
        return self.mean * _normal((math.log(x) - self.mu) / self.sigma - self.sigma)


def _normal(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def cells(law: Lognormal, edges: tuple[int, ...]) -> list[tuple[float, float]]:
    """Probability and mean size of each bucket; the last one takes the tail."""
    found = []
    for k, (low, high) in enumerate(itertools.pairwise(edges)):
        last = k == len(edges) - 2
        p = (1.0 if last else law.below(high)) - law.below(low)
        mass = (law.mean if last else law.mass_below(high)) - law.mass_below(low)
        found.append((p, mass / p if p > 0 else float(high)))
    return found


def kept(weight: float) -> float:
    """Leave away buckets of fewer than one request in 100,000: the laws are not known that far."""
    return weight if weight >= 1e-5 else 0.0


FIGURES = {
    "short-chat": (
        Lognormal(69.5, 1.0),
        Lognormal(214.5, 0.8),
        "LMSYS-Chat-1M means",
        (
            "Short chat: LMSYS-Chat-1M has 69.5 tokens per prompt and 214.5 per response on average.\n"
            "Citation: Zheng et al., LMSYS-Chat-1M, ICLR 2024 (arXiv 2309.11998), table 1.\n"
            "Only the means are published there: the spread (lognormal, sigma 1.0 for prompts and 0.8\n"
            "for responses, independent) is this project's assumption."
        ),
    ),
    "long-document": (
        Lognormal(4021, 0.6),
        Lognormal(271, 0.5),
        "PubMed summarisation means",
        (
            "Long documents: the PubMed summarisation set has 3016 words per article and 203 per\n"
            "abstract on average, taken at 4/3 tokens per word (4021 and 271 tokens).\n"
            "Citation: Cohan et al., A Discourse-Aware Attention Model for Abstractive Summarization of\n"
            "Long Documents, NAACL 2018 (arXiv 1804.05685), table 1.\n"
            "Only the means are published there: the spread (lognormal, sigma 0.6 for articles and 0.5\n"
            "for abstracts, independent) is this project's assumption."
        ),
    ),
}


def main(name: str) -> None:
    inputs_law, outputs_law, source, comment = FIGURES[name]
    inputs = cells(inputs_law, DEFAULT_INPUT_EDGES)
    outputs = cells(outputs_law, DEFAULT_OUTPUT_EDGES)
    total = sum(kept(p * q) for p, _ in inputs for q, _ in outputs)
    beyond_in = 1 - inputs_law.below(DEFAULT_INPUT_EDGES[-1])
    beyond_out = 1 - outputs_law.below(DEFAULT_OUTPUT_EDGES[-1])
    histogram = Histogram(
        input_edges=DEFAULT_INPUT_EDGES,
        output_edges=DEFAULT_OUTPUT_EDGES,
        weights=tuple(tuple(kept(p * q) / total for q, _ in outputs) for p, _ in inputs),
        input_sizes=tuple(tuple(m if kept(p * q) else None for q, _ in outputs) for p, m in inputs),
        output_sizes=tuple(
            tuple(m if kept(p * q) else None for q, m in outputs) for p, _ in inputs
        ),
        coverage=Coverage(
            requests=None, beyond_fraction=beyond_in + beyond_out - beyond_in * beyond_out
        ),
        source=source,
    )
    command = f"python catalogs/distributions/derive.py {name}"
    sys.stdout.write(histogram_yaml(histogram, f"{comment}\nDerived by: {command}"))


if __name__ == "__main__":
    main(sys.argv[1])
