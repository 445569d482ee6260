"""The engines that serve models: one file each; nothing outside this package names one.

A new engine is one file here, its line below, a template in `templates/` and a test file.
"""

from __future__ import annotations

from collections.abc import Mapping

from melange_sky.engines.base import BenchLoad, BenchResult, BenchTool, Engine
from melange_sky.engines.choice import (
    DEFAULT_NAME,
    ChoiceProblem,
    EngineChoice,
    choice_problems,
    model_problem,
    name_problem,
    text_problem,
)
from melange_sky.engines.command import Replica, ServeCommand
from melange_sky.engines.servers import INSTALL as INSTALL_BALANCER
from melange_sky.engines.sglang import Sglang
from melange_sky.engines.vllm import Vllm
from melange_sky.errors import InputError, did_you_mean

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (Vllm(), Sglang())}
"""Every engine by its name."""

DEFAULT_ENGINE = ENGINES[DEFAULT_NAME]
"""The engine of a spec that names none."""


def engine_named(name: str) -> Engine:
    """Return an engine; InputError with a suggestion for an unknown name."""
    if name not in ENGINES:
        raise InputError(
            f"unknown engine '{name[:40]}'{did_you_mean(name, ENGINES)}; "
            f"known: {', '.join(sorted(ENGINES))}"
        )
    return ENGINES[name]


BENCH_TOOLS: Mapping[str, BenchTool] = {
    engine.bench.name: engine.bench for engine in ENGINES.values() if engine.bench is not None
}
"""Every engine's own load generator by its name."""


def bench_named(name: str) -> BenchTool:
    """Return a load generator; InputError with a suggestion for an unknown name."""
    if name not in BENCH_TOOLS:
        raise InputError(
            f"unknown load generator '{name[:40]}'{did_you_mean(name, BENCH_TOOLS)}; "
            f"known: {', '.join(sorted(BENCH_TOOLS))}"
        )
    return BENCH_TOOLS[name]


__all__ = [
    "BENCH_TOOLS",
    "DEFAULT_ENGINE",
    "ENGINES",
    "INSTALL_BALANCER",
    "BenchLoad",
    "BenchResult",
    "BenchTool",
    "ChoiceProblem",
    "Engine",
    "EngineChoice",
    "Replica",
    "ServeCommand",
    "bench_named",
    "choice_problems",
    "engine_named",
    "model_problem",
    "name_problem",
    "text_problem",
]
