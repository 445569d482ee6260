"""The engine model against a real vLLM server: fitted on five probes, asked for four others."""

from __future__ import annotations

import pytest

from melange_sky.steps import ReplicaModel
from tests.stack.engine_fit import Prediction, fit_and_predict, median_error, worst_factor

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(600)]

Outcome = tuple[ReplicaModel, list[Prediction]]


@pytest.fixture(scope="module")
def outcome(server: str) -> Outcome:
    return fit_and_predict(server)


def test_other_sizes_and_rates_are_predicted_within_a_factor_of_two(outcome: Outcome) -> None:
    _, predictions = outcome
    shown = "\n".join(map(str, predictions))
    print(shown, f"median error {median_error(predictions):.0%}", sep="\n")
    assert worst_factor(predictions) <= 2.0, shown


def test_fitted_constants_are_times_that_a_small_model_takes(outcome: Outcome) -> None:
    """A longer prompt and a fuller batch take longer; nothing takes negative time or whole seconds."""
    replica, _ = outcome
    costs = replica.costs
    assert 1e-4 <= costs.fixed_s <= 1.0
    assert 1e-7 <= costs.token_flops_s <= 1e-2
    assert 0.0 < costs.sequence_s <= 1.0
    assert 0.0 < replica.request_s <= 1.0
