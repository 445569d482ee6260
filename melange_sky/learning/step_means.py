"""The mean step and the mean time to a first token that constants predict for a stretch of traffic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melange_sky.steps.times import pairs_s, products_s

if TYPE_CHECKING:
    from melange_sky.steps import ReplicaModel
    from melange_sky.steps.times import StepCosts

_ROUNDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What an engine is asked: sequences decoded at a time on average, prompts and their tokens per second,
    tokens in the KV cache."""

    decoding: float
    firsts_rps: float
    prompt_tps: float
    kv_tokens: float


def step_means(replica: ReplicaModel, traffic: Traffic) -> tuple[float, float]:
    """Return (seconds between two tokens of a sequence, seconds to a first token without a queue).

    A step carries prompts with a chance that grows with its own length; prompts that fit together share one.
    A token sees its own sequence beside the mean number of others (arrivals by Poisson).
    """
    costs, others = replica.costs, traffic.decoding
    sequences = others + 1
    prompt = traffic.prompt_tps / traffic.firsts_rps if traffic.firsts_rps > 0 else 0.0
    chunks = max(1.0, prompt / replica.budget_tokens)
    apart = min(1.0, prompt / replica.budget_tokens)
    attention_s = _one(pairs_s, costs, prompt) / chunks
    base_s = costs.fixed_s + costs.sequence_s * sequences + costs.kv_token_s * traffic.kv_tokens
    plain_s = base_s + _one(products_s, costs, sequences)
    step_s = plain_s
    for _ in range(_ROUNDS):
        asked = traffic.firsts_rps * step_s * chunks
        share = min(1.0, apart * asked + (1 - apart) * -math.expm1(-asked))
        if share <= 0:
            break
        tokens = min(prompt / chunks * asked / share, float(replica.budget_tokens))
        mixed_s = (
            base_s
            + costs.prompts_s
            + costs.sequence_s
            + _one(products_s, costs, sequences + tokens)
            + attention_s * asked / share
        )
        after_s = (1 - share) * plain_s + share * mixed_s
        if abs(after_s - step_s) < 1e-6 * step_s:
            break
        step_s = (step_s + after_s) / 2
    alone_s = (
        base_s + costs.prompts_s + attention_s + _one(products_s, costs, others + prompt / chunks)
    )
    busy = -math.expm1(-others)
    return step_s, busy * step_s / 2 + alone_s * math.ceil(chunks)


def _one(function: object, costs: StepCosts, tokens: float) -> float:
    return float(function(costs, np.array([tokens]))[0])  # type: ignore[operator]
