"""The flags of an engine's server, as far as a plan must understand them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class FlagTable:
    """What the project knows of an engine's flags, each under one name with dashes.

    `refused`: flag → why a user cannot give it. `unmodelled`: flags that change what a replica
    carries, as no estimate knows. `spellings`: other names of a flag → its name here. `length`,
    `quantization`, `dtype`, `kv_dtype`, `served_name`, `revision` and `tokenizer` are the names of flags
    that plans read; `tokenizer_revision` pins a tokenizer of its own, None where `revision` holds for it
    too; with a flag of `elsewhere` the revision would be looked for in another repository.
    `adapters_flag` names LoRA adapters that are served by names of their own.
    `scaling`: how flags begin that stretch a model's context. `prefixes` tells whether the server
    takes the beginning of a flag for the flag.
    """

    refused: Mapping[str, str]
    unmodelled: frozenset[str]
    spellings: Mapping[str, str] = field(default_factory=dict)
    length: str
    quantization: str = "--quantization"
    dtype: str = "--dtype"
    kv_dtype: str = "--kv-cache-dtype"
    served_name: str = "--served-model-name"
    adapters_flag: str | None = None
    revision: str = "--revision"
    tokenizer: str = "--tokenizer"
    tokenizer_revision: str | None = None
    elsewhere: frozenset[str] = frozenset()
    scaling: tuple[str, ...] = ()
    prefixes: bool = False

    @property
    def form(self) -> tuple[str, str, str]:
        """The flags that change the form in which a model is held."""
        return self.quantization, self.dtype, self.kv_dtype

    def name_of(self, word: str) -> str:
        """Return the flag that a word of the command line gives, under its name here."""
        flag = word.partition("=")[0]
        flag = self.spellings.get(flag, flag).replace("_", "-")
        flag = self.spellings.get(flag, flag)
        return self._completed(flag) if self.prefixes and flag.startswith("--") else flag

    def _completed(self, flag: str) -> str:
        read = {self.length, self.served_name, self.revision, self.tokenizer, *self.elsewhere}
        known = {*self.refused, *self.unmodelled, *read, *self.form}
        if self.adapters_flag is not None:
            known.add(self.adapters_flag)
        if flag in known:
            return flag
        longer = [name for name in {*known, *self.spellings} if name.startswith(flag)]
        meant = {self.spellings.get(name, name) for name in longer}
        return meant.pop() if len(meant) == 1 else flag

    def refusal(self, word: str) -> str | None:
        """Return why a word cannot stand among the user's flags, None where it can."""
        flag = self.name_of(word)
        why = self.refused.get(flag)
        return None if why is None else f"{flag} cannot be given here; {why}"

    def unmodelled_in(self, args: Sequence[str]) -> tuple[str, ...]:
        """Return the flags among `args` that change what a replica carries, as no estimate knows."""
        return tuple(dict.fromkeys(f for f in map(self.name_of, args) if f in self.unmodelled))

    def values(self, args: Sequence[str], wanted: Collection[str]) -> dict[str, str]:
        """Return the last value that `args` give to each of the wanted flags."""
        return {flag: value for _, flag, value in self.given(args, wanted)}

    def given(self, args: Sequence[str], wanted: Collection[str]) -> Iterator[tuple[int, str, str]]:
        """Yield the place, the flag and its value wherever `args` give one of the wanted flags."""
        for position, arg in enumerate(args):
            flag, (_, equals, value) = self.name_of(arg), arg.partition("=")
            if flag in wanted:
                following = args[position + 1] if position + 1 < len(args) else ""
                yield position, flag, value if equals else following

    def served_names(self, args: Sequence[str]) -> list[str]:
        """Return the names that `args` give to the model; none where they give none."""
        return self._words(args, self.served_name)

    def adapters(self, args: Sequence[str]) -> list[str]:
        """Return the names of the LoRA adapters that `args` have served beside the model.

        >>> table = FlagTable(refused={}, unmodelled=frozenset(), length="-m", adapters_flag="--lora-modules")
        >>> table.adapters(["--lora-modules", "sql=org/sql", '{"name": "law", "path": "x"}', "-q", "fp8"])
        ['sql', 'law']
        """
        words = [] if self.adapters_flag is None else self._words(args, self.adapters_flag)
        return [name for name in map(_adapter_name, words) if name]

    def _words(self, args: Sequence[str], wanted: str) -> list[str]:
        """Return the values that the last occurrence of a flag of several values has."""
        words: list[str] = []
        for position, arg in enumerate(args):
            _, equals, value = arg.partition("=")
            if not arg.startswith("-") or self.name_of(arg) != wanted:
                continue
            words = [value] if equals else []
            for word in args[position + 1 :]:
                if equals or word.startswith("-"):
                    break
                words.append(word)
        return words

    def pins(self, revision: str | None, args: Sequence[str]) -> list[tuple[str, str]]:
        """Return the flags that pin the model's commit, none where `args` say what is run.

        A tokenizer of another repository is left at what it is there.
        """
        given = {self.name_of(word) for word in args if word.startswith("-")}
        if revision is None or self.revision in given or given & self.elsewhere:
            return []
        pins = [(self.revision, revision)]
        if self.tokenizer in given:
            if self.tokenizer_revision is None:
                return []
            if self.tokenizer_revision not in given:
                pins.append((self.tokenizer_revision, "main"))
        return pins

    def scales_context(self, args: Sequence[str]) -> bool:
        """Return whether `args` stretch the model's context."""
        return any(self.name_of(arg).startswith(self.scaling) for arg in args if self.scaling)

    def without_length(self, args: Sequence[str]) -> list[str]:
        """Return `args` less the flag of the longest request and its value."""
        rest, skip = [], False
        for word in args:
            gives_length = self.name_of(word) == self.length
            if not skip and not gives_length:
                rest.append(word)
            skip = not skip and gives_length and "=" not in word
        return rest

    def lines(self, args: Sequence[str]) -> list[tuple[str, ...]]:
        """Return `args` less the longest request, a flag and its values in one tuple."""
        lines: list[tuple[str, ...]] = []
        for word in self.without_length(args):
            if lines and not word.startswith("-"):
                lines[-1] += (word,)
            else:
                lines.append((word,))
        return lines


def _adapter_name(word: str) -> str | None:
    """Return the name in ``NAME=PATH``, ``PATH`` or a JSON object with `name` (or `lora_name`)."""
    if not word.startswith("{"):
        return word.partition("=")[0]
    try:
        given = json.loads(word)
    except ValueError:
        return None
    name = given.get("name", given.get("lora_name")) if isinstance(given, dict) else None
    return name if isinstance(name, str) else None
