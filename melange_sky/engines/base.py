"""What an engine is to the rest of the project: facts, checks and a command, all text and data.

One file per engine says all that the project knows of it; `engines/__init__` lists them.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from melange_sky.engines.choice import check_choice, model_problem
from melange_sky.errors import InputError
from melange_sky.models.quantization import plain

if TYPE_CHECKING:
    from melange_sky.accelerators import AcceleratorSpec
    from melange_sky.engines.choice import EngineChoice
    from melange_sky.engines.command import Replica, ServeCommand
    from melange_sky.engines.flags import FlagTable
    from melange_sky.engines.weights import WeightTable
    from melange_sky.models import ModelShape, StoredCache

KEY_HINT = "give it as a secret: sky serve up --secret {}"
LISTENS = "replicas listen where SkyServe probes them"
PLANNED = "the plan decides it, and its capacities hold for no other"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchLoad:
    """What an engine's own load generator is to send: Poisson arrivals of requests of one size."""

    base_url: str
    model: str
    tokenizer: str
    input_tokens: int
    output_tokens: int
    rate_rps: float
    requests: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What it saw: medians in milliseconds, and how many requests were answered."""

    ttft_ms: float
    tpot_ms: float
    completed: int


class BenchTool(ABC):
    """An engine's own load generator, as a second opinion on the profiler's client.

    `name` is what `--check-with` calls it, `title` what people do; `program` is looked for on the
    PATH; `key_variable` is where it reads the server's key; `result_file` is written to the folder
    that it is given.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    program: ClassVar[str]
    key_variable: ClassVar[str]
    result_file: ClassVar[str]

    @abstractmethod
    def words(self, load: BenchLoad, folder: str) -> list[str]:
        """Return the words after the program."""

    @abstractmethod
    def result(self, document: Mapping[str, Any]) -> BenchResult:
        """Read its result; raises LookupError, TypeError or ValueError where it is no such thing."""


class Engine(ABC):
    """A server of models that the project can estimate, start, check and measure.

    `title` is its name for people; `default_version` the release whose flags were checked: one exact
    version, so that replicas started weeks apart run the same engine. `program` is the console script
    of its package. `generation` names the constants of its estimates, `generations_before` those of versions below
    (major, minor), oldest first; `generation_note` says so where
    these are another engine's. `key_variable` holds the key that replicas demand. `metrics`: name on
    its Prometheus page → `running`, `waiting` or `kv_use` (a fraction), gauges, or `preemptions`, a
    counter; where it counts tokens looked up in its prefix cache, `prefix_asked` and `prefix_found` too;
    where its constants can be learnt from it, the counters of `learning.COUNTERS`, and in `histograms` the sizes of
    finished requests, `prompts` and `answers`.
    `without_code`: architectures that it does not serve by code of its own → the last release that did, None where none ever did.
    `foreign_configs`: types of configs that it reads only by a checkpoint's own code, if `code_flag` lets it.
    `prefix_cache_flags`: flags of the prefix cache, and whether they turn it on.
    `version_path` answers JSON with `version`; `health_path` 200 once requests are served.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    program: ClassVar[str]
    default_version: ClassVar[str]
    generation: ClassVar[str]
    generations_before: ClassVar[tuple[tuple[tuple[int, int], str], ...]] = ()
    generation_note: ClassVar[str | None] = None
    template: ClassVar[str]
    key_variable: ClassVar[str]
    health_path: ClassVar[str]
    version_path: ClassVar[str]
    metrics: ClassVar[Mapping[str, str]]
    histograms: ClassVar[Mapping[str, str]] = {}
    flags: ClassVar[FlagTable]
    weights: ClassVar[WeightTable]
    bench: ClassVar[BenchTool | None] = None
    without_code: ClassVar[Mapping[str, str | None]] = {}
    foreign_configs: ClassVar[frozenset[str]] = frozenset()
    code_flag: ClassVar[str] = "--trust-remote-code"
    prefix_cache_flags: ClassVar[Mapping[str, bool]] = {}

    def caches_prefixes(self, args: Sequence[str]) -> bool:
        """Return whether ended requests' blocks are kept for prompts that begin alike, as by default."""
        named = [(self.flags.name_of(word), word.partition("=")[2].casefold()) for word in args]
        for name, value in reversed(named):
            if name in self.prefix_cache_flags:
                return self.prefix_cache_flags[name] is (value not in ("false", "0"))
        return True

    @abstractmethod
    def serve_command(self, replica: Replica) -> ServeCommand:
        """Return what starts the replica; InputError where its texts cannot stand in a command."""

    @abstractmethod
    def tokens(self, text: str) -> int | None:
        """Return the value of the longest request's flag, None where it is left to the engine."""

    def requirement(self, choice: EngineChoice) -> str:
        """Return what a package installer is asked for."""
        return f"{self.package}=={choice.version or self.default_version}"

    def generation_of(self, version: str | None) -> str:
        """Return the generation whose constants hold for a version, None for the one that is installed."""
        numbers = (version or self.default_version).split(".")[:2]
        if all(number.isdigit() for number in numbers):
            found = tuple(int(number) for number in numbers)
            for before, generation in self.generations_before:
                if found < before:
                    return generation
        return self.generation

    def check(self, replica: Replica) -> None:
        """Raise InputError with everything in the replica's texts that no command can carry."""
        problem = model_problem(replica.model)
        if problem is not None:
            raise InputError(f"the model's name {problem}")
        check_choice(self, replica.choice)

    def held(
        self,
        model: ModelShape,
        args: Sequence[str],
        *,
        own_config: bool = False,
        stored_cache: StoredCache | None = None,
    ) -> ModelShape:
        """Return the model as the engine would hold it under `args` (`--flag value` or `--flag=value`).

        Reads the flags of quantisation, dtype, KV cache dtype and longest request; the last one of
        each counts. Anything else is left to the engine. `own_config`: the model's sizes come from the
        user's own config.json, beside which another file may say how the weights are quantised.
        `stored_cache`: the KV cache that the checkpoint asks for, which holds where no flag says otherwise.
        Raises InputError for a value that cannot be or that the engine refuses.
        """
        flags, weights = self.flags, self.weights
        if model.dtype in weights.unservable:
            raise InputError(
                f"{self.title} cannot serve this checkpoint, whose weights are kept as {model.dtype}"
            )
        model = self._noted(model, args)
        given = flags.values(args, {*flags.form, flags.length})
        if flags.dtype in given:
            model = weights.with_dtype(model, given[flags.dtype])
        if flags.quantization in given:
            model = weights.with_quantization(model, given[flags.quantization], own_config)
        model = weights.with_stored_cache(model, stored_cache, self.title)
        if given.get(flags.kv_dtype, "auto") != "auto":
            model = weights.with_kv_dtype(model, given[flags.kv_dtype])
        if model.dtype in weights.need_bf16 and not model.needs_bf16:
            model = dataclasses.replace(model, needs_bf16=True)
        return self._with_length(model, args)

    def value_problem(self, flag: str, value: str) -> str | None:
        """Return why no model can be held under such a value of a flag, None where some can."""
        flags, weights = self.flags, self.weights
        try:
            if flag == flags.length:
                self.tokens(value)
            elif flag == flags.quantization:
                weights.quantization(value)
            elif flag == flags.dtype:
                plain(value, "--dtype")
            elif flag == flags.kv_dtype and value != "auto":
                weights.check_kv_dtype(value)
        except InputError as error:
            return str(error)
        return None

    def _noted(self, model: ModelShape, args: Sequence[str]) -> ModelShape:
        """Return the model with notes where the engine lacks code for its architecture or its config."""
        notes = []
        if model.architecture in self.without_code:
            last = self.without_code[model.architecture]
            until = "" if last is None else f" since release {last}"
            notes.append(
                f"{self.title} {self.default_version} has no code of its own for {model.architecture}{until}: it "
                "runs through transformers, slower than estimated, or not at all"
            )
        allowed = self.code_flag in {self.flags.name_of(word) for word in args}
        if model.config_type in self.foreign_configs and not allowed:
            notes.append(
                f"{self.title} reads this checkpoint's config only by code in its repository: give {self.code_flag} "
                "(engine.args) if you trust that code, or it does not start"
            )
        return dataclasses.replace(model, notes=(*model.notes, *notes)) if notes else model

    def _with_length(self, model: ModelShape, args: Sequence[str]) -> ModelShape:
        longest = self.longest_admitted(args)
        if longest is None:
            return model
        if longest > model.context_tokens and not self.flags.scales_context(args):
            raise InputError(
                f"{self.flags.length}: {longest} exceeds the model's context of {model.context_tokens}; "
                f"a longer one needs {self.flags.scaling[0]} that scale it"
            )
        return dataclasses.replace(model, context_tokens=longest)

    def longest_admitted(self, args: Sequence[str]) -> int | None:
        """Return the tokens of the longest request that `args` ask for, None where they leave it open."""
        given = self.flags.values(args, (self.flags.length,)).get(self.flags.length)
        return None if given is None else self.tokens(given)

    def form(self, args: Sequence[str]) -> tuple[str, ...]:
        """Return those of `args` that change the form in which a model is held, in one spelling.

        The 16-bit types are one form, that of most checkpoints.
        """
        given = self.flags.values(args, self.flags.form)
        usual = ("auto", "bfloat16", "float16", "half")
        return tuple(
            f"{flag}={given[flag]}"
            for flag in self.flags.form
            if given.get(flag, "auto") not in usual
        )

    def misfit(self, model: ModelShape, accelerator: AcceleratorSpec) -> str | None:
        """Return why the engine cannot run the model's form on such a GPU, None where it can."""
        if model.needs_bf16 and not accelerator.has_bf16:
            return f"{accelerator.name} has no bfloat16, which {model.dtype} needs in {self.title}"
        if not accelerator.has_bf16 and self.weights.lacks_float16(model):
            return (
                f"{accelerator.name} has no bfloat16, and {model.name[:80]} is numerically unstable in "
                f"float16 ({self.title})"
            )
        if (
            self.weights.small_cache_needs_bf16
            and model.kv_dtype_bytes < 2
            and not accelerator.has_bf16
        ):
            return f"{accelerator.name} is too old for a KV cache of 8 bits or less in {self.title}"
        if model.dtype in self.weights.need_fp8 and accelerator.fp8_tflops is None:
            return f"{accelerator.name} has no fp8, which {model.dtype} needs in {self.title}"
        return None
