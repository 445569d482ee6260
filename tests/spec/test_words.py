"""Wrong keys lead to the right ones, wherever they live; numbers that are hardly meant are asked about."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest

from melange_sky.errors import InputError
from melange_sky.spec import load_spec
from melange_sky.spec.key_hints import _NOTES, _WORDS, all_paths, unknown_key
from melange_sky.spec.plausible import RULES

SPEC: dict[str, Any] = {
    "name": "chat",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "slo": {"tpot_ms": 60},
    "workload": {"rate_rps": 1, "distribution": "short-chat"},
}


def told(document: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        load_spec(document)
    (line,) = caught.value.problems
    return line


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("slo", "itl_ms", "slo.itl_ms: unknown key 'itl_ms' (did you mean 'tpot_ms'?)"),
        ("slo", "TTFT", "(did you mean 'ttft_ms': in milliseconds?)"),
        ("slo", "p99", "(did you mean 'attainment'?)"),
        ("slo", "e2e_latency_ms", "; there is no limit on whole requests: give ttft_ms and tpot_ms"),
        (None, "tpot_ms", "(did you mean 'tpot_ms' under slo?)"),
        ("workload", "qps", "(did you mean 'rate_rps'?)"),
        (None, "qps", "(did you mean 'rate_rps' under workload?)"),
        ("workload", "requestsPerSecond", "(did you mean 'rate_rps'?)"),
        ("workload", "rpm", "(did you mean 'rate_rps': per second, so divided by 60?)"),
        ("workload", "max_tokens", "(did you mean 'output_tokens': the mean of what answers have, not the most"),
        ("workload", "gpus", "(did you mean 'accelerators' under resources?)"),
        ("resources", "gpus", "(did you mean 'accelerators'?)"),
        (None, "gpu_type", "(did you mean 'accelerators' under resources?)"),
        ("resources", "cloud", "resources.infra"),
        (None, "region", "resources.infra"),
        ("resources", "providers", "(did you mean 'infra'?)"),
        ("resources", "headroom", "(did you mean 'headroom' at the top level?)"),
        (None, "headrom", "(did you mean 'headroom'?)"),
        ("resources", "interruption_rate", "(did you mean 'interruption_rate' under resources.spot?)"),
        ("redundancy", "acelerators", "(did you mean 'accelerators' under resources?)"),
        ("engine", "max_model_len", "(did you mean 'args': --max-model-len?)"),
        (None, "labels", "SkyPilot's own fields go under"),
        (None, "xyzzy", "; known: name, model, model_config, slo"),
    ],
)  # fmt: skip
def test_a_wrong_key_leads_to_the_right_one(section: str | None, key: str, words: str) -> None:
    document = copy.deepcopy(SPEC)
    (document if section is None else document.setdefault(section, {}))[key] = 3
    assert words in told(document)


def test_a_key_of_one_of_several_models_is_looked_for_as_any() -> None:
    entry = {key: SPEC[key] for key in ("model", "workload")} | {"slo": {"itl": 3, "tpot_ms": 60}}
    line = told({"name": "two", "models": [{"name": "a", **entry}]})
    assert line.endswith(
        "models[0].slo.itl: unknown key 'itl' (did you mean 'tpot_ms': in milliseconds?)"
    )
    entry = {key: SPEC[key] for key in ("model", "workload", "slo")} | {"headroom": 0.2}
    line = told({"name": "two", "models": [{"name": "a", **entry}]})
    assert "(did you mean 'headroom' at the top level?)" in line


def test_the_table_leads_to_keys_that_there_are_and_hides_none() -> None:
    paths = set(all_paths())
    assert set(_WORDS) <= paths
    words = [word for line in _WORDS.values() for word in line.split()]
    assert [word for word, count in Counter(words).items() if count > 1] == []
    assert set(_NOTES) <= set(words)
    for path, line in _WORDS.items():
        section = path.rpartition(".")[0]
        known = {p.rpartition(".")[2] for p in paths if p.rpartition(".")[0] == section}
        assert not known & set(line.split()), path


@pytest.mark.parametrize("path", all_paths())
def test_every_key_is_found_from_any_other_section(path: str) -> None:
    section, _, name = path.rpartition(".")
    for other in ("slo", "redundancy", ""):
        known = [p.rpartition(".")[2] for p in all_paths() if p.rpartition(".")[0] == other]
        if other != section and name not in known and name not in ("name", "mean", "p95"):
            line = unknown_key(name, known, (other,) if other else (), None)
            assert "did you mean" in line, line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"slo": {"tpot_ms": 0.06}}, "slo.tpot_ms: 0.06 ms per token is faster than any GPU generates; tpot_ms: 60 was probably meant; if it is real, add unusual: [slo.tpot_ms] to the spec"),
        ({"slo": {"tpot_ms": 60, "ttft_ms": 1.5}}, "ttft_ms: 1500 was probably meant"),
        ({"slo": {"tpot_ms": 60_000}}, "tpot_ms: 60 was probably meant"),
        ({"slo": {"tpot_ms": 60, "attainment": 1e-9}}, "slo.attainment: 1e-09 of the requests in time"),
        ({"slo": {"tpot_ms": 60, "attainment": 95}}, "must be at most 1; it is a fraction: 95 % is 0.95"),
        ({"headroom": 95}, "headroom: must be at most 0.95; it is a fraction: 95 % is 0.95"),
        ({"headroom": 10}, "it is a fraction: 10 % is 0.1"),
        ({"workload": {"rate_rps": 5e5, "distribution": "short-chat"}}, "it is per second, not per minute or day"),
        ({"workload": {"rate_rps": 5e7, "distribution": "short-chat"}}, "must be at most 1e+06"),
        ({"workload": {"rate_rps": 1e-9, "distribution": "short-chat"}}, "is less than one a day"),
        ({"workload": {"rate_rps": 1, "input_tokens": 0.5, "output_tokens": 9}}, "must be a number of tokens from 1"),
        ({"workload": {"rate_rps": 1, "histogram": {"input_edges": [0, 9], "output_edges": [0, 9], "weights": [[100]]}}}, "but sum to 100; are they percent? divide by 100"),
        ({"unusual": ["slo.tpot"]}, "unusual[0]: no number of 'slo.tpot' is asked about (did you mean 'slo.tpot_ms'?)"),
    ],
)  # fmt: skip
def test_a_number_that_is_hardly_meant_is_asked_about(given: dict[str, Any], words: str) -> None:
    assert words in told({**SPEC, **given})


def test_who_means_it_says_so() -> None:
    slo = {"tpot_ms": 0.06, "attainment": 0.1}
    load_spec({**SPEC, "slo": slo, "unusual": ["slo.tpot_ms", "slo.attainment"]})
    assert {rule.key for rule in RULES} <= set(all_paths())
