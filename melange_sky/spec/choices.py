"""The GPUs that an entry of a spec asks for."""

from __future__ import annotations

from melange_sky.errors import InputError, clip
from melange_sky.names.accelerators import accelerator_name
from melange_sky.offers import parse_accelerator
from melange_sky.spec.values import AcceleratorChoice


def read_accelerator_choice(text: str) -> AcceleratorChoice:
    """Read ``NAME`` or ``NAME:COUNT``; InputError says what is wrong."""
    try:
        name, count = parse_accelerator(text)
    except ValueError:
        raise InputError(
            f"'{clip(text)}' must be NAME or NAME:COUNT with a count above 0"
        ) from None
    if count is not None and count != int(count):
        raise InputError(f"'{clip(text)}': the count must be a whole number of GPUs")
    return AcceleratorChoice(
        name=accelerator_name(name), count=None if count is None else int(count)
    )
