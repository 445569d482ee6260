"""Names that a package exports without loading the modules that have them: each is loaded when first asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def exported_from(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package (PEP 562): `homes` is name → module below the package.

    >>> find = exported_from("melange_sky.names", {"Cloud": "clouds"})
    >>> find("Clod")
    Traceback (most recent call last):
    AttributeError: module 'melange_sky.names' has no attribute 'Clod'
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, found)  # the next access finds it at once
        return found

    return find
