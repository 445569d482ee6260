"""Against an API that is paid by the token: what the demand costs there, and the rate from which on a fleet wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melange_sky.optimizer import SolveOptions, least_cost
from melange_sky.optimizer.answers.rate_sweep import at_rate

if TYPE_CHECKING:
    from melange_sky.optimizer import Deadline
    from melange_sky.planner.reserving.asking import Asked
    from melange_sky.planner.reserving.material import Mix
    from melange_sky.reserve.answer import Advice

LEAST_RPS = 1e-6
HIGHEST_TIMES = 10.0
"""The break-even rate is sought up to so many times the demand's mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiComparison:
    """The advice beside an API over the demand.

    Prices in USD per million tokens; `usd` is what the demand costs there, `own_usd_per_million` and
    `usd_per_million` what a million tokens (prompt and answer together) cost here and there. `wins_from_rps` is
    the least even rate of the demand's mean mix at which a fleet rented on demand costs no more than the API,
    None where none up to `sought_rps` does.
    """

    input_usd: float
    output_usd: float
    usd: float
    input_tokens: float
    output_tokens: float
    own_usd_per_million: float
    usd_per_million: float
    wins_from_rps: float | None
    sought_rps: float


def tokens_per_request(mix: Mix) -> tuple[float, float]:
    """Return the mean prompt and answer of a mix in tokens, images among the prompt's, over all its models."""
    inputs = outputs = 0.0
    for workload, part in zip(mix.workloads, mix.parts, strict=True):
        prompts = workload.as_prompts()
        rates, total, cells = workload.rates_rps, workload.rate_rps, workload.buckets()
        prompt = sum(rates[i][j] * prompts.input_sizes[i][j] for i, j in cells)
        answer = sum(rates[i][j] * prompts.output_sizes[i][j] for i, j in cells)
        inputs, outputs = inputs + part * prompt / total, outputs + part * answer / total
    return inputs, outputs


def compared_with_api(asked: Asked, advice: Advice, deadline: Deadline) -> ApiComparison | None:
    """Return the comparison that --api-price asks for, None without. Raises TimeUpError."""
    prices = asked.options.api_usd
    if prices is None:
        return None
    question = asked.question
    rates = question.scenarios[0].rate_rps
    seconds = question.hours_each * 3600
    per_request = [tokens_per_request(mix) for mix in asked.mixes]
    inputs = outputs = 0.0
    for k, (prompt, answer) in enumerate(per_request):
        requests = float(rates[question.mix == k].sum()) * seconds
        inputs, outputs = inputs + requests * prompt, outputs + requests * answer
    usd = (inputs * prices[0] + outputs * prices[1]) / 1e6
    requests = float(rates.sum()) * seconds
    sought = HIGHEST_TIMES * float(rates.mean())
    total = (inputs + outputs) / 1e6
    return ApiComparison(
        input_usd=prices[0],
        output_usd=prices[1],
        usd=usd,
        input_tokens=inputs,
        output_tokens=outputs,
        own_usd_per_million=advice.totals.chosen_usd / total,
        usd_per_million=usd / total,
        wins_from_rps=_wins_from(asked, usd / requests * 3600, sought, deadline),
        sought_rps=sought,
    )


def _wins_from(asked: Asked, api_usd: float, sought: float, deadline: Deadline) -> float | None:
    """Return the least rate at which some fleet costs no more; `api_usd`: of an hour at 1 req/s.

    The cheapest fleet's cost is a staircase over the rate. Where it is above the API's at a rate, it is above it
    at all rates up to cost ÷ api_usd, too; so the least rate is what repeating this comes to. The commonest mix
    stands for all, or that of the mean rates where the demand states those of each model.
    """
    question, mixes = asked.question, asked.told_mixes
    rates = question.scenarios[0].rate_rps
    shares = [float(rates[question.mix == k].sum()) for k in range(len(mixes))]
    problem = mixes[shares.index(max(shares))].problem
    solve = SolveOptions(time_limit_s=deadline.left_s, deadline=deadline)
    rate = LEAST_RPS
    while rate <= sought:
        cost = least_cost(at_rate(problem, rate), solve).cost_usd_per_hour
        if cost is None:
            return None
        even = cost / api_usd
        if even <= rate * (1 + 1e-9):
            return rate
        rate = even
    return None
