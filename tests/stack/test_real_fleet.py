"""The fleet simulation against two real vLLM servers behind the real gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stack.real_fleet import NAMES, REQUESTS, Outcome, run

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def outcome(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    found = run(tmp_path_factory.mktemp("fleet"))
    print(found)
    return found


def test_every_request_is_answered_and_both_servers_serve(outcome: Outcome) -> None:
    assert not outcome.errors
    assert sum(seen.requests for seen in outcome.measured.values()) == REQUESTS
    for name in NAMES:
        assert outcome.measured[name].requests >= REQUESTS / 10, str(outcome)


def test_the_simulator_orders_the_servers_as_life_does(outcome: Outcome) -> None:
    for seen in (outcome.predicted, outcome.measured):
        assert seen["fast"].attainment > seen["slow"].attainment, str(outcome)
        assert seen["fast"].tpot_s < seen["slow"].tpot_s, str(outcome)


def test_attainment_and_tpot_are_predicted_within_a_factor_of_two(outcome: Outcome) -> None:
    assert all(0.5 <= ratio <= 2.0 for ratio in outcome.off.values()), str(outcome)
