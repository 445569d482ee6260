"""The offers that a spec states, for commands that plan nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melange_sky.offers import OwnOffers
    from melange_sky.spec import SpecSource


def own_offers(spec: SpecSource | None) -> tuple[OwnOffers, ...]:
    """Return the offers that a spec states; none for no spec, or for Mélange's own config."""
    if spec is None:
        return ()
    from melange_sky.spec import Spec, load_spec

    loaded = load_spec(spec)
    return loaded.offers if isinstance(loaded, Spec) else ()
