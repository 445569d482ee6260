"""SGLang: its command line against the flags of its release, its forms of weights, its key."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from melange_sky.accelerators import accelerator_table
from melange_sky.engines import ENGINES, EngineChoice
from melange_sky.errors import InputError
from melange_sky.models import find_model, shape_from_config
from melange_sky.rendering import service_document
from tests.engines.test_engines import replica
from tests.factories import make_engine, make_model_plan, make_offer, make_option
from tests.rendering.test_sky_accepts import allocate

SGLANG = ENGINES["sglang"]
RELEASE = json.loads(Path(__file__).with_name("sglang_flags.json").read_text(encoding="utf-8"))
LLAMA = find_model("meta-llama/Llama-3.1-8B-Instruct")


def parser() -> argparse.ArgumentParser:
    """A parser with every flag of the release, built by `add_argument` as the server builds its own."""
    built = argparse.ArgumentParser(exit_on_error=False)
    for flag in RELEASE["flags"]:
        how: dict[str, Any] = {"nargs": flag["values"]} if flag["values"] not in (0, 1) else {}
        if flag["values"] == 0:
            how = {"action": "store_true"}
        built.add_argument(*flag["names"], **how)
    return built


def test_the_flags_are_those_of_the_default_version() -> None:
    assert RELEASE["wheel"].startswith(f"sglang-{SGLANG.default_version}-")


def test_every_flag_that_is_named_exists() -> None:
    known = {name for flag in RELEASE["flags"] for name in flag["names"]}
    flags = SGLANG.flags
    named = {*flags.refused, *flags.unmodelled, *flags.spellings, *flags.form, *flags.scaling}
    assert named | {flags.length, flags.served_name, "--enable-metrics"} <= known
    first = {name: flag["names"][0] for flag in RELEASE["flags"] for name in flag["names"]}
    assert {other: first[other] for other in flags.spellings} == flags.spellings


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--quantization", "fp8", "--kv-cache-dtype=fp8_e4m3", "--revision", "main"),
        ("--lora-paths", "a=b", "c=d", "--served-model-name", "x", "--trust-remote-code"),
    ],
)
def test_the_server_would_take_the_command(args: tuple[str, ...]) -> None:
    command = SGLANG.serve_command(replica(args))
    assert command.program[:3] == ("python3", "-m", "sglang.launch_server")
    taken = parser().parse_args([*command.program[3:], *command.flag_words])
    assert taken.model_path == "meta-llama/Llama-3.1-8B-Instruct"
    assert (taken.host, taken.port, taken.tp_size) == ("0.0.0.0", "8000", "2")
    assert taken.enable_metrics


def test_settings_become_flags() -> None:
    command = SGLANG.serve_command(replica())
    told = {flag: values for flag, *values in command.flags}
    settings = replica().option.engine
    assert settings is not None
    assert told["--context-length"] == [str(settings.max_model_len)]
    assert told["--max-running-requests"] == [str(settings.max_num_seqs)]
    assert "--dp-size" not in told
    four = dataclasses.replace(settings, data_parallel=4, dtype="half")
    option = dataclasses.replace(replica().option, engine=four)
    told = {flag: values for flag, *values in SGLANG.serve_command(replica(option=option)).flags}
    assert (told["--dp-size"], told["--dtype"]) == (["4"], ["half"])


def test_the_static_memory_is_weights_and_planned_cache() -> None:
    """16.06 GB of weights over two GPUs, and 100 000 cached tokens of 131 072 bytes over two."""
    given = {flag: values for flag, *values in SGLANG.serve_command(replica()).flags}
    gpu = accelerator_table()["A10G"].usable_gib * 2**30
    static = (LLAMA.weight_bytes / 2 + 100_000 * 131_072 / 2) / gpu
    assert float(given["--mem-fraction-static"][0]) == pytest.approx(static, abs=0.001)
    assert float(given["--mem-fraction-static"][0]) <= static < 0.92
    for unknown in (replica(shape=None), replica(option=allocate(make_offer()).candidate.option)):
        plain = dataclasses.replace(unknown.option, accelerator="my label")
        for case in (unknown, dataclasses.replace(unknown, option=plain)):
            if case.shape is None or case.option.gpu == "my label":
                assert "--mem-fraction-static" not in SGLANG.serve_command(case).flag_words


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("--tp", "--tp-size"),
        ("--tensor-parallel", "--tp-size"),
        ("--dp=2", "--dp-size"),
        ("--api", "--api-key"),
        ("--por", "--port"),
        ("--ep", "--ep-size"),
        ("--mem-fraction", "--mem-fraction-static"),
        ("--model", "--model-path"),
        ("--enable-lora-overlap-loading", "--enable-lora-overlap-loading"),
        ("--quantization-param-path", "--quantization-param-path"),
    ],
)
def test_the_beginning_of_a_flag_is_the_flag(word: str, flag: str) -> None:
    """As argparse has it, which the server parses its command line with."""
    assert SGLANG.flags.name_of(word) == flag
    takes_none = any(word in f["names"] and f["values"] == 0 for f in RELEASE["flags"])
    taken = parser().parse_args([word] if "=" in word or takes_none else [word, "1"])
    given = [name for name, value in vars(taken).items() if value not in (None, False)]
    assert given == [flag.lstrip("-").replace("-", "_")]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("8192", 8192), ("8k", 8000), ("25.6k", 25_600), ("8Ki", 8192), ("1M", 10**6), ("1Mi", 2**20)],
)
def test_token_counts_are_read_as_the_server_reads_them(text: str, tokens: int) -> None:
    assert SGLANG.longest_admitted(["--context-length", text]) == tokens


@pytest.mark.parametrize("text", ["", "0", "-5", "8K", "8.5Ki", "1e3", "x" * 999, "8.5", "9" * 16])
def test_other_token_counts_are_refused(text: str) -> None:
    with pytest.raises(InputError) as told:
        SGLANG.longest_admitted([f"--context-length={text}"])
    assert str(told.value) == f"--context-length: '{text[:40]}' is not a number of tokens"


def test_forms_of_weights() -> None:
    fp8 = SGLANG.held(LLAMA, ["--quantization", "fp8", "--kv-cache-dtype", "fp8_e5m2"])
    assert fp8.weight_bytes == pytest.approx(9.08e9, rel=0.01) and fp8.fp8_compute
    assert fp8.kv_bytes_per_token == LLAMA.kv_bytes_per_token / 2
    table = accelerator_table()
    assert SGLANG.misfit(fp8, table["T4"]) == "T4 has no bfloat16, which fp8 needs in SGLang"
    assert SGLANG.misfit(fp8, table["A100"]) is None
    ada = SGLANG.held(LLAMA, ["--quantization", "w8a8_fp8"])
    assert SGLANG.misfit(ada, table["A100"]) == "A100 has no fp8, which w8a8_fp8 needs in SGLang"
    assert SGLANG.misfit(ada, table["L4"]) is None
    assert SGLANG.held(LLAMA, ["--context-length", "8Ki"]).context_tokens == 8192
    assert SGLANG.form(["--quantization=fp8", "--dtype", "half"]) == ("--quantization=fp8",)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (
            ["--quantization", "awq"],
            "--quantization: awq needs a checkpoint stored in that form",
        ),
        (["--quantization", "experts_int8"], "--quantization: unknown quantization 'experts_int8'"),
        (
            ["--kv-cache-dtype", "fp8"],
            r"--kv-cache-dtype: unknown 'fp8' \(did you mean 'mxfp8'\?\)",
        ),
        (
            ["--context-length", "1M"],
            (
                "--context-length: 1000000 exceeds the model's context of 131072; a longer one needs "
                "--json-model-override-args that scale it"
            ),
        ),
    ],
)
def test_what_the_server_refuses_is_refused(args: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        SGLANG.held(LLAMA, args)


def test_a_checkpoint_that_it_does_not_serve_is_refused() -> None:
    models = Path(__file__).parents[2] / "catalogs" / "models.json"
    config = json.loads(models.read_text(encoding="utf-8"))["models"][4]["config"]
    kept = shape_from_config("m", config | {"quantization_config": {"quant_method": "fbgemm_fp8"}})
    with pytest.raises(InputError) as told:
        SGLANG.held(kept, [])
    assert str(told.value) == (
        "SGLang cannot serve this checkpoint, whose weights are kept as fbgemm_fp8"
    )


@pytest.mark.parametrize("key", [None, "k", "-k $(id) 'x"])
def test_the_replica_runs_the_command_and_shows_the_key_where_one_is_set(
    tmp_path: Path, key: str | None
) -> None:
    """Set-up and run under bash, with a `python3` that notes what it was given."""
    plan = make_model_plan(
        allocations=(allocation := allocate(make_offer()),),
        candidates=(allocation.candidate,),
        engine=EngineChoice(name="sglang", args=("--served-model-name", 'it\'s "$HOME"')),
    )
    document = service_document(plan, allocation)
    for program in ("python3", "sglang"):
        fake = tmp_path / program
        fake.write_text('#!/bin/bash\nprintf "%s\\0" "$@" > "$RECORD"\n', encoding="utf-8")
        fake.chmod(0o755)
    record = tmp_path / "argv"
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path / "home")}
    env |= {"RECORD": str(record), "SGLANG_API_KEY": key or ""}
    for script in (document["setup"], document["run"]):
        done = subprocess.run(
            ["bash", "-c", script], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    option = allocation.candidate.option
    command = SGLANG.serve_command(
        replica(choice=plan.engine, option=option, shape=plan.model_shape)
    )
    words = [*command.program[1:], *command.flag_words]
    words += [] if key is None else [f"--api-key={key}"]
    assert record.read_text(encoding="utf-8").split("\0")[:-1] == words
    assert document["secrets"]["SGLANG_API_KEY"] == ""
    assert "requirement=sglang==0.5.23 pinned=no\n" in document["setup"]


def test_a_hybrid_is_left_to_the_servers_own_split_of_the_memory() -> None:
    shape = find_model("Qwen/Qwen3.5-27B")
    option = make_option(accelerator="H100", engine=make_engine(kv_cache_tokens=100_000))
    flags = [flag for flag, *_ in SGLANG.serve_command(replica(option=option, shape=shape)).flags]
    assert "--mem-fraction-static" not in flags
