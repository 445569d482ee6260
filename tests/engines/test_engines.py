"""What holds of every engine, the checks of what a spec chooses, and that nothing else names one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import melange_sky
from melange_sky.engines import (
    DEFAULT_ENGINE,
    ENGINES,
    Engine,
    EngineChoice,
    Replica,
    bench_named,
    choice_problems,
    engine_named,
    model_problem,
)
from melange_sky.errors import InputError
from melange_sky.learning import COUNTERS
from melange_sky.models import find_model
from melange_sky.profiles import engine_generations
from melange_sky.rendering import PORT, render_services
from melange_sky.resources import templates_dir
from tests.factories import make_engine, make_offer, make_option
from tests.rendering.test_sky_accepts import allocate, plan_of

PACKAGE = Path(melange_sky.__file__).parent

every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))


def replica(args: tuple[str, ...] = (), **over: Any) -> Replica:
    """One engine of two GPUs that serves Llama 3.1 8B."""
    option = make_option(engine=make_engine(tensor_parallel=2, kv_cache_tokens=100_000))
    values: dict[str, Any] = {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "choice": EngineChoice(args=args),
        "option": option,
        "shape": find_model("meta-llama/Llama-3.1-8B-Instruct"),
        "port": PORT,
    }
    return Replica(**(values | over))


def test_the_modules_outside_name_no_engine() -> None:
    """Names of generations and of data files stand in data, not in code."""
    named = re.compile("|".join(ENGINES), re.IGNORECASE)
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if "engines" not in path.relative_to(PACKAGE).parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if named.search(line)
    ]
    assert found == []


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(InputError) as told:
        engine_named("sglan")
    assert str(told.value) == (
        "unknown engine 'sglan' (did you mean 'sglang'?); known: sglang, vllm"
    )
    with pytest.raises(InputError, match="unknown load generator 'x'; known: "):
        bench_named("x")


@every_engine
def test_its_template_is_a_service_with_its_key_and_its_probe(engine: Engine) -> None:
    text = (templates_dir() / engine.template).read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    assert document["secrets"] == {engine.key_variable: ""}
    assert document["service"]["readiness_probe"]["path"] == engine.health_path
    assert document["service"]["ports"] == document["resources"]["ports"] == PORT
    assert engine.program in document["setup"] and "$requirement" in document["setup"]
    default = yaml.safe_load((templates_dir() / DEFAULT_ENGINE.template).read_text("utf-8"))
    assert list(document) == list(default)
    for section in ("service", "resources", "_metadata"):
        assert list(document[section]) == list(default[section])


@every_engine
def test_it_is_known_by_its_name_and_estimated_by_a_generation(engine: Engine) -> None:
    assert ENGINES[engine.name] is engine
    assert engine.generation in engine_generations()
    assert (engine.generation_note is None) == (engine.generation == engine.name)
    counted = set(engine.metrics.values()) - {"prefix_asked", "prefix_found"}
    learnt = set(COUNTERS) if engine.histograms else set()
    assert counted == {"running", "waiting", "kv_use", "preemptions"} | learnt
    assert engine.requirement(EngineChoice()) == f"{engine.package}=={engine.default_version}"
    assert engine.requirement(EngineChoice(version="1.2")) == f"{engine.package}==1.2"
    assert not list(choice_problems(engine, EngineChoice(version=engine.default_version)))


@every_engine
def test_what_the_plan_derives_is_refused_or_known_as_unmodelled(engine: Engine) -> None:
    flags = engine.flags
    for flag, *values in engine.serve_command(replica()).flags:
        assert not values or (
            flags.refusal(flag) is not None
            or flag in flags.unmodelled
            or flag in (flags.length, flags.dtype)
        )
        assert flags.name_of(flag) == flag
    assert not set(flags.refused) & flags.unmodelled
    assert set(flags.spellings.values()) <= {*flags.refused, *flags.unmodelled, *flags.form}


@every_engine
def test_the_command_is_data_with_the_users_flags_last(engine: Engine) -> None:
    words = (engine.flags.length, "4k", "--seed", "1", "--served-model-name=a b", "--x", "1", "2")
    command = engine.serve_command(replica(words))
    assert command.flags[-3:] == (
        ("--seed", "1"),
        ("--served-model-name=a b",),
        ("--x", "1", "2"),
    )
    assert "4k" not in command.flag_words  # the plan was made for it, and gives it itself
    assert "meta-llama/Llama-3.1-8B-Instruct" in command.program
    assert engine.flags.served_names(words) == ["a b"]
    assert "--served-model-name=a b" in command.flag_words
    assert "'--served-model-name=a b'" in command.as_shell()


@every_engine
@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"version": "1; rm -rf /"}, "engine.version: must be a version such as {version}"),
        ({"version": "0.33.0-foo"}, "engine.version: must be a version such as {version}"),
        ({"env": (("A B", "x"),)}, "engine.env.A B: is not the name of an environment variable"),
        ({"env": (("SKYPILOT_X", "x"),)}, "engine.env.SKYPILOT_X: belongs to SkyPilot"),
        (
            {"env": (("HF_TOKEN", "hf_x"),)},
            "engine.env.HF_TOKEN: is a secret: leave it out of the spec and pass it with --secret HF_TOKEN",
        ),
        (
            {"env": (("my_api_key", ""),)},
            (
                "engine.env.my_api_key: is a secret: leave it out of the spec and pass it with "
                "--secret my_api_key"
            ),
        ),
        ({"env": (("A", "x\0y"),)}, "engine.env.A: holds a NUL character"),
        ({"args": ("--seed", "\0")}, "engine.args[1]: holds a NUL character"),
        ({"args": ("\ud800",)}, "engine.args[0]: holds text that is not valid Unicode"),
        ({"setup": "echo \0"}, "engine.setup: holds a NUL character"),
        (
            {"args": ("--seed", "1", "--port=80")},
            "engine.args[2]: --port cannot be given here; replicas listen where SkyServe probes them",
        ),
        (
            {"args": ("--api-key", "x")},
            (
                "engine.args[0]: --api-key cannot be given here; give it as a secret: sky serve up "
                "--secret {key}"
            ),
        ),
        (
            {"args": ("--tensor-parallel-size=2",)},
            (
                "engine.args[0]: {tp} cannot be given here; the plan decides it, and its capacities "
                "hold for no other"
            ),
        ),
    ],
)
def test_a_choice_is_judged_alike_by_the_check_and_by_rendering(
    engine: Engine, choice: dict[str, Any], told: str
) -> None:
    tp = engine.flags.name_of("--tensor-parallel-size")
    expected = told.format(version=engine.default_version, key=engine.key_variable, tp=tp)
    given = EngineChoice(name=engine.name, **choice)
    assert [str(problem) for problem in choice_problems(engine, given)] == [expected]
    with pytest.raises(InputError) as caught:
        render_services(plan_of(allocate(make_offer()), engine=given))
    assert caught.value.problems == (expected,)


def test_a_model_that_would_be_a_flag_is_refused() -> None:
    assert model_problem("meta-llama/Llama-3.1-8B") is None
    for name in ("", " ", "-h", "--help"):
        assert model_problem(name) == "must not be empty or start with '-'"
    assert model_problem("a\0b") == "holds a NUL character"


@every_engine
def test_gpus_without_bfloat16_are_refused_where_the_form_needs_it(engine: Engine) -> None:
    from melange_sky.names.accelerators import find_accelerator

    held = engine.held(find_model("meta-llama/Llama-3.1-8B"), ["--dtype", "bfloat16"])
    assert engine.misfit(held, find_accelerator("T4")) == (
        f"T4 has no bfloat16, which bfloat16 needs in {engine.title}"
    )
    assert engine.misfit(held, find_accelerator("A10G")) is None


@every_engine
def test_no_quantization_is_made_of_weights_in_float32(engine: Engine) -> None:
    """Engines' classes of quantizations made while loading take float16 and bfloat16 alone."""
    model = find_model("meta-llama/Llama-3.1-8B")
    for word in sorted(engine.weights.online):
        with pytest.raises(InputError, match=f"{word} is computed in 16 bits, so --dtype float32"):
            engine.held(model, ["--dtype", "float32", engine.flags.quantization, word])
        engine.held(model, ["--dtype", "bfloat16", engine.flags.quantization, word])


@pytest.mark.parametrize(
    ("name", "args", "caches"),
    [
        ("vllm", [], True),
        ("vllm", ["--no-enable-prefix-caching"], False),
        ("vllm", ["--no_enable_prefix_caching"], False),
        ("vllm", ["--enable-prefix-caching"], True),
        ("vllm", ["--no-enable-prefix-caching", "--enable-prefix-caching"], True),
        ("sglang", [], True),
        ("sglang", ["--disable-radix-cache"], False),
    ],
)
def test_engines_cache_prefixes_unless_told_not_to(
    name: str, args: list[str], caches: bool
) -> None:
    assert engine_named(name).caches_prefixes(args) is caches
