"""Which modules a list in a quantization section names: exact names, globs, expressions, parts of names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

_PREFIXES = (
    "model.language_model.",
    "language_model.model.",
    "model.text_model.",
    "language_model.",
    "thinker.model.",
    "backbone.",
    "transformer.",
    "model.",
)
_MOST_PATTERN = 500
_MODULES = (
    ("mlp", "block_sparse_moe", "feed_forward", "ffn", "mixer", "moe"),
    ("self_attn", "attn", "mixer", "attention", "linear_attn"),
)
_OTHER_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2", "lm_head": "head"}
_LAYER = re.compile(r"^layers\.(\d+)\b")

Test = Callable[[str], bool]


def bare(name: str) -> str:
    """Return a module's name without the prefixes that frameworks disagree about.

    >>> bare("model.language_model.layers.3.mlp.gate")
    'layers.3.mlp.gate'
    """
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


@lru_cache(maxsize=65536)
def spellings(name: str) -> tuple[str, ...]:
    """Return the names, less their prefix, under which a checkpoint may know a module.

    >>> spellings("model.layers.0.mlp.experts.0.up_proj")[:2]
    ('layers.0.mlp.experts.0.up_proj', 'layers.0.block_sparse_moe.experts.0.up_proj')
    """
    core = bare(name)
    parts = core.split(".")
    names = [core]
    if len(parts) >= 3 and parts[0] == "layers":
        for group in _MODULES:
            if parts[2] in group:
                names += [
                    ".".join((*parts[:2], other, *parts[3:]))
                    for other in group
                    if other != parts[2]
                ]
    last = _OTHER_NAMES.get(parts[-1])
    if last is not None:
        names += [".".join((*one.split(".")[:-1], last)) for one in names]
    return tuple(names)


class Names:
    """A list of module names and patterns; `contains`: a name within a module's name counts, too.

    Patterns of one layer are looked up by its number, since lists of hundreds are common. `unreadable`
    are those that are no text, or expressions that are wrong or could take for ever.
    """

    def __init__(self, patterns: Iterable[object], *, contains: bool = False) -> None:
        self._exact: set[str] = set()
        self._everywhere: list[Test] = []
        self._in_layer: dict[str, list[Test]] = {}
        self.unreadable: list[str] = []
        for pattern in patterns:
            if isinstance(pattern, str) and 0 < len(pattern) <= _MOST_PATTERN:
                self._add(pattern, contains)
            elif pattern != "":
                self.unreadable.append(_told(pattern))

    def _add(self, pattern: str, contains: bool) -> None:
        if pattern.startswith("re:"):
            test = _expression(pattern[3:])
            if test is None:
                self.unreadable.append(pattern)
            else:
                self._everywhere.append(test)
            return
        core = bare(pattern)
        if any(letter in core for letter in "*?["):
            for glob in (core, f"{core}.*"):  # a module, or whatever it holds
                compiled = _compiled(fnmatch.translate(glob))
                if compiled is not None:
                    self._place(core, _matches(compiled))
        else:
            self._exact.add(core)
            if contains:
                self._place(core, _holds(core))

    def _place(self, pattern: str, test: Test) -> None:
        layer = _LAYER.match(pattern)
        if layer is None:
            self._everywhere.append(test)
        else:
            self._in_layer.setdefault(layer.group(1), []).append(test)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        spelled = spellings(name)
        if any(self._listed(one) for one in spelled):
            return True
        layer = _LAYER.match(spelled[0])
        tests = self._in_layer.get(layer.group(1), []) if layer is not None else []
        return any(test(one) for test in (*self._everywhere, *tests) for one in spelled)

    def _listed(self, name: str) -> bool:
        """Return whether a module, or one that holds it, is listed."""
        while name not in self._exact:
            name, dot, _ = name.rpartition(".")
            if not dot:
                return False
        return True

    def __bool__(self) -> bool:
        return bool(self._exact or self._everywhere or self._in_layer)


def _told(pattern: object) -> str:
    """Return a pattern for a message; a nested value is named by its kind."""
    nested = isinstance(pattern, list | dict | tuple)
    return type(pattern).__name__ if nested else str(pattern)[:_MOST_PATTERN]


def _matches(pattern: re.Pattern[str]) -> Test:
    return lambda name: pattern.match(name) is not None


def _holds(part: str) -> Test:
    """Return the test of whole parts of a name: `gate` is in `mlp.gate`, not in `mlp.gate_proj`."""
    return lambda name: f".{part}." in f".{name}."


def _expression(text: str) -> Test | None:
    """Return the test of a regular expression, which may name the prefix that the names here lack."""
    compiled = None if _is_costly(text) else _compiled(text)
    if compiled is None:
        return None
    return lambda name: any(
        compiled.match(prefix + name) for prefix in ("", "model.", "language_model.model.")
    )


@lru_cache(maxsize=4096)
def _compiled(text: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return None


def _is_costly(text: str) -> bool:
    """Return whether an expression could take for ever: repetitions within repetitions."""
    return re.search(r"[*+}][^()]*\)\s*[*+{]", text) is not None
