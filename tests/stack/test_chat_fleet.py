"""Prefix caches of two real vLLM servers behind the gateway: found as predicted, with sessions kept and not."""

from __future__ import annotations

from pathlib import Path

import pytest

from melange_sky.gateway import Affinity
from tests.stack.chat_fleet import Chats, Hits, fitted, hits, two_servers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

CHATS = Chats(chats=52, turns=5, live=10, think_s=0.9, blocks=200)


@pytest.fixture(scope="module")
def found(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Affinity, Hits]:
    with two_servers(tmp_path_factory.mktemp("chats"), CHATS.blocks) as urls:
        replica = fitted(urls[0], CHATS)
        seen = {how: hits(urls, CHATS, replica, how) for how in (Affinity.SESSION, Affinity.OFF)}
    for how, told in seen.items():
        print(f"{how.value}: {told}")
    return seen


@pytest.mark.parametrize("how", [Affinity.SESSION, Affinity.OFF])
def test_hits_are_predicted_within_three_points(found: dict[Affinity, Hits], how: Affinity) -> None:
    assert found[how].predicted == pytest.approx(found[how].measured, abs=0.03), found[how]


def test_kept_sessions_find_more_and_move_less(found: dict[Affinity, Hits]) -> None:
    kept, blind = found[Affinity.SESSION], found[Affinity.OFF]
    assert kept.measured > blind.measured + 0.08
    assert kept.moved < 0.5 * blind.moved
