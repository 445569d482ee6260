"""A generation of three constants per accelerator, so that single terms of a step can be counted."""

from __future__ import annotations

import dataclasses

from melange_sky.steps import Efficiency, Generation


def plain(generation: Generation) -> Generation:
    """Return the generation without what number formats, experts and links add."""

    def bare(figures: Efficiency) -> Efficiency:
        return Efficiency(
            bandwidth=figures.bandwidth, compute=figures.compute, attention=figures.attention
        )

    return dataclasses.replace(
        generation,
        efficiencies={name: bare(figures) for name, figures in generation.efficiencies.items()},
        default=bare(generation.default),
        overheads=dataclasses.replace(
            generation.overheads,
            elementwise=0.0,
            weight_only=1.0,
            expert_skew=1.0,
            latent_layer_s=0.0,
            index_layer_s=0.0,
            index_token_s=0.0,
        ),
        links={},
    )
