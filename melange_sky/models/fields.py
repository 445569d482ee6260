"""Checked access to a `config.json`: aliases, class defaults, and a record of what was read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from melange_sky.errors import InputError, did_you_mean

LARGEST = 10**9 - 1
MOST_LAYERS = 2000

ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model", "model_dim", "n_embed", "dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": (
        "n_head_kv",
        "num_kv_heads",
        "multi_query_group_num",
        "num_attention_groups",
        "num_query_groups",
    ),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size", "inner_dim"),
    "head_dim": ("attention_head_dim", "hidden_size_per_head", "kv_channels"),
    "vocab_size": ("padded_vocab_size", "n_vocab"),
    "max_position_embeddings": ("n_positions", "n_ctx"),
    "num_experts": ("moe_num_experts", "n_routed_experts", "num_local_experts"),
    "num_experts_per_tok": (
        "num_experts_per_token",
        "top_k_experts",
        "moe_topk",
        "moe_top_k",
        "experts_per_token",
        "moe_k",
    ),
    "moe_intermediate_size": ("expert_ffn_hidden_size", "expert_intermediate_size"),
    "n_shared_experts": (
        "moe_num_shared_experts",
        "num_shared_experts",
        "num_shared_expert",
        "num_shared_experts_per_layer",
    ),
    "sliding_window": ("sliding_window_size", "attention_window_size"),
    "tie_word_embeddings": ("tie_embeddings", "tie_embedding"),
}
"""The engines' own field aliases (`CONFIG_FIELD_ALIASES`) and those of the `transformers` classes."""


class Fields:
    """A config or one of its sections; what was asked for is remembered.

    `told` gathers what a reader must warn of, `sections` the nested ones that were read. `defaults` are those of the `transformers` class, taken for
    what the file leaves out; `withheld` are more of them, of sizes that a file states itself: they stand in
    only where a size may be left out. `where` names the file, and the section within it.
    """

    def __init__(
        self,
        raw: Mapping[str, Any],
        where: str,
        defaults: Mapping[str, Any] | None = None,
        withheld: Mapping[str, Any] | None = None,
    ) -> None:
        self.raw = raw
        self.where = where
        self.defaults = defaults or {}
        self.withheld = withheld or {}
        self.read: set[str] = set()
        self.assumed: set[str] = set()
        self.told: list[str] = []
        self.sections: dict[str, Fields] = {}

    def get(self, key: str) -> Any:
        """Return a value under its name or an alias, else the class default, else None."""
        names = (key, *ALIASES.get(key, ()))
        self.read.update(names)
        for name in names:
            if self.raw.get(name) is not None:
                return self.raw[name]
        if key in self.raw:
            return None  # null in the file is an answer
        default = next(
            (d[n] for d in (self.defaults, self.withheld) for n in names if n in d), None
        )
        if default is not None and default is not False:
            self.assumed.add(key)
        return default

    def has(self, key: str) -> bool:
        """Return whether the file itself states the field."""
        names = (key, *ALIASES.get(key, ()))
        self.read.update(names)
        return any(self.raw.get(name) is not None for name in names)

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number; raise InputError where it is wrong or missing."""
        value = self.get(key)
        withheld = not self.has(key) and any(
            n in self.withheld for n in (key, *ALIASES.get(key, ()))
        )
        if default is None and (value is None or withheld):
            hint = did_you_mean(key, (name for name in map(str, self.raw) if name != key))
            raise InputError(
                f"{self.where}: no '{key}'{hint}: needed to size the model; is this the config.json "
                "of a decoder-only model?"
            )
        return default if value is None and default is not None else self._checked(key, value)

    def _checked(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST:
            raise InputError(
                f"{self.where}: '{key}' must be a whole number between 1 and {LARGEST}"
            )
        return value

    def maybe(self, key: str) -> int | None:
        """Return a positive whole number, None where it is absent, null or zero."""
        value = self.get(key)
        if value is None or (value == 0 and isinstance(value, int)):
            return None
        return self._checked(key, value)

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a true or false field."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, (bool, int)):
            raise InputError(f"{self.where}: '{key}' must be true or false")
        return bool(value)

    def number(self, key: str, default: float) -> float:
        """Return a finite positive number."""
        value = self.get(key)
        if value is None:
            return default
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (math.isfinite(value) and 0 < value <= LARGEST)
        ):
            raise InputError(f"{self.where}: '{key}' must be a positive number")
        return float(value)

    def text(self, key: str, default: str = "") -> str:
        """Return a string field."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InputError(f"{self.where}: '{key}' must be text")
        return value

    def items(self, key: str, length: int | None = None) -> list[Any] | None:
        """Return a list field, None where it is absent; of `length` entries where that is given."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise InputError(f"{self.where}: '{key}' must be a list")
        if length is not None and len(value) < length:
            raise InputError(f"{self.where}: '{key}' has {len(value)} entries for {length} layers")
        return value if length is None else value[:length]

    def wholes(self, key: str, length: int | None = None) -> list[int] | None:
        """Return a list of whole numbers from 0 on."""
        values = self.items(key, length)
        if values is None:
            return None
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
                raise InputError(f"{self.where}: '{key}' must be a list of whole numbers")
        return values

    def words(self, key: str, length: int | None = None) -> list[str] | None:
        """Return a list of strings."""
        values = self.items(key, length)
        if values is not None and not all(isinstance(value, str) for value in values):
            raise InputError(f"{self.where}: '{key}' must be a list of strings")
        return values

    def section(self, key: str, defaults: Mapping[str, Any] | None = None) -> Fields | None:
        """Return a nested section, None where it is absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise InputError(f"{self.where}: '{key}' must be a mapping")
        if key not in self.sections:
            self.sections[key] = Fields(value, f"{self.where}: {key}", defaults)
        return self.sections[key]

    def changed(self, values: Mapping[str, Any]) -> Fields:
        """Return the same fields with other values for some, which are read and told of as one."""
        other = Fields({**self.raw, **values}, self.where, self.defaults, self.withheld)
        other.read, other.assumed = self.read, self.assumed
        other.told, other.sections = self.told, self.sections
        return other

    def layers(self) -> int:
        """Return the number of layers, which a file must not make endless."""
        number = self.whole("num_hidden_layers")
        if number > MOST_LAYERS:
            raise InputError(
                f"{self.where}: 'num_hidden_layers' is {number}; no model has more than {MOST_LAYERS}"
            )
        return number


def shown(value: object, most: int = 40) -> str:
    """Return untrusted text cut to a length that fits one line."""
    return "".join(c if c.isprintable() else " " for c in str(value)[:most])


def one_of(fields: Fields, key: str, value: str, known: Sequence[str]) -> InputError:
    """Return the error for a word that is not among those known."""
    return InputError(
        f"{fields.where}: '{key}' holds '{shown(value)}', which is not supported; known: {', '.join(known)}"
    )
