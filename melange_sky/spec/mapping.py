"""A spec given from Python as a mapping, taken as if it had been read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from melange_sky.errors import InputError, clip
from melange_sky.spec.yaml_source import MAX_DEPTH, MAX_VALUES, Document, KeyPath

DICT_PATH = Path("<dict>")
"""Stands for the file in messages; its folder is the working directory, where paths begin."""


def document_of(mapping: Mapping[Any, Any]) -> Document:
    """Return the document of a mapping, its values copied and made plain.

    Tuples count as lists, paths as text, numbers of numpy as numbers. What a file could not hold is
    noted as a problem. Raises InputError for a mapping nested too deeply (or in itself) or too large.
    """
    document = Document(None)
    document.value = _Copier(document).copy(mapping, ())
    return document


class _Copier:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._values = 0

    def copy(self, value: Any, at: KeyPath) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise InputError(f"{DICT_PATH}: holds more than {MAX_VALUES} values")
        if len(at) > MAX_DEPTH:
            raise InputError(f"{DICT_PATH}: nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return self._mapping(value, at)
        if isinstance(value, Path):
            return str(value)
        if value is None or isinstance(value, bool | int | float | str):
            return _plain(value)
        if isinstance(value, Sequence) and not isinstance(value, bytes | str):
            return [self.copy(item, (*at, i)) for i, item in enumerate(value)]
        return self._from_numpy(value, at)

    def _mapping(self, mapping: Mapping[Any, Any], at: KeyPath) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for key, value in mapping.items():
            if isinstance(key, str):
                copied[key] = self.copy(value, (*at, key))
            else:
                self._note((*at, str(key)[:60]), "a key must be plain text")
        return copied

    def _from_numpy(self, value: Any, at: KeyPath) -> Any:
        """Return what an array or a number of numpy holds; note anything else."""
        if hasattr(value, "tolist"):
            return self.copy(value.tolist(), at)
        self._note(at, f"a value of type {clip(type(value).__name__)} is not allowed in a spec")
        return None

    def _note(self, at: KeyPath, what: str) -> None:
        self._document.problems.append((at, 0, what))


def _plain(value: Any) -> Any:
    """Return the value as Python's own type: subclasses carry behaviour that a file could not."""
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value if value is None else str.__str__(value)
