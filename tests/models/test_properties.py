"""Properties of layer lists, and that no config raises anything but one line."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.errors import InputError
from melange_sky.models import Checkpoint, known_models, read_layers, read_model, shipped_checkpoint
from melange_sky.models.layers import count
from melange_sky.models.reading import registry, wrappers
from melange_sky.models.reading.refusals import ENCODERS, SEQ_TO_SEQ, SPEECH, VISION
from melange_sky.resources import catalogs_dir
from tests.models.test_cases import HYBRID

ENTRIES = json.loads((catalogs_dir() / "models.json").read_text(encoding="utf-8"))["models"]
CONFIGS = [entry["config"] for entry in ENTRIES]


@pytest.mark.parametrize("name", sorted({e["names"][0] for e in ENTRIES}))
def test_the_parts_add_up(name):
    read = read_model(shipped_checkpoint(name))
    layers = read.layers
    assert sum(layers.parameters_by_part().values()) == layers.parameters
    assert layers.parameters == count(matrix for _, matrix in layers.all_matrices())
    assert sum(number for _, number in layers.kinds()) == len(layers.layers)
    assert sum(read.sizes.by_format.values()) == pytest.approx(read.sizes.file_bytes)
    assert read.sizes.resident_bytes <= read.sizes.file_bytes
    assert 0 < layers.active_parameters <= layers.resident_parameters
    assert read.shape.parameters == layers.resident_parameters


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: str(c.get("model_type")))
def test_a_longer_sequence_never_holds_less(config):
    layers = read_layers(config)
    sizes = [layers.kv_bytes(tokens) for tokens in (1, 100, 4096, 4097, 100_000, 1_000_000)]
    assert sizes == sorted(sizes)
    growth = layers.kv_bytes(2_000_001) - layers.kv_bytes(2_000_000)
    assert growth == pytest.approx(layers.kv_bytes_per_token)


GROWING = ("num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads")


@pytest.mark.parametrize("key", GROWING)
@given(
    config=st.sampled_from([c for c in CONFIGS if "layer_types" not in c]), factor=st.integers(2, 4)
)
@settings(max_examples=25, deadline=None)
def test_more_of_anything_never_costs_less(key, config, factor):
    """More layers, width, words or heads: no fewer parameters, no smaller cache."""
    if not isinstance(config.get(key), int) or "hybrid_override_pattern" in config:
        return
    if key == "num_attention_heads":  # of one size: else they only get narrower
        config = {"head_dim": config["hidden_size"] // config[key], **config}
    larger = {**config, key: config[key] * factor}
    try:
        before, after = read_layers(config), read_layers(larger)
    except InputError:
        return  # a list that is now too short, or heads that no longer divide
    assert after.parameters >= before.parameters
    assert after.kv_bytes(100_000) >= before.kv_bytes(100_000)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["llama", "full_attention", "mamba", "M*E-", "0,1,x", "LLLG", "fp8", "NVFP4"]),
)
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=6),
    st.dictionaries(st.text(max_size=6), SCALARS, max_size=4),
)
KEYS = sorted(
    {key for config in CONFIGS for key in config}
    | {key for config in CONFIGS for key in config.get("text_config", {})}
    | {key for config in CONFIGS for key in config.get("quantization_config", {})}
)


@given(
    config=st.sampled_from(CONFIGS),
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=4),
    inside=st.sampled_from(["", "text_config", "vision_config", "quantization_config"]),
    side_file=st.one_of(st.none(), st.just({}), st.dictionaries(st.just("quantization"), VALUES)),
)
@settings(max_examples=400, deadline=None)
def test_reading_never_raises_anything_but_one_line(config, changes, inside, side_file):
    changed = copy.deepcopy(config)
    target = changed.get(inside) if inside else changed
    (target if isinstance(target, dict) else changed).update(changes)
    checkpoint = Checkpoint(name="m", config=changed, side_file=side_file, where="config.json")
    try:
        read = read_model(checkpoint)
        assert read.layers.parameters > 0
        assert read.file_bytes > 0
    except InputError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000


@given(document=VALUES)
@settings(max_examples=50, deadline=None)
def test_any_document_is_refused_in_one_line(document):
    with pytest.raises(InputError):
        read_layers(document if not isinstance(document, dict) else {**document, "model_type": "?"})


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {"rope_type": ["linear"], "factor": 2.0}},
        {"rope_scaling": {"type": {"a": 1}, "factor": 2.0}},
        {"rope_scaling": {"type": "linear", "factor": float("nan")}},
        {"mamba_ssm_dtype": "float32\nand more", "layer_types": ["linear_attention"] * 60},
    ],
)
def test_what_a_long_fuzz_found_stays_one_line(change):
    """Found by 80,000 random changes of 300 configs (keys left out, wrong types, deep nesting, NaN)."""
    for config in (CONFIGS[0], HYBRID["text_config"]):
        try:
            read_layers({**config, **change})
        except InputError as error:
            assert "\n" not in str(error)


def test_no_type_is_of_two_families():
    types = [name for family in registry.FAMILIES for name in family.types]
    assert len(types) == len(set(types))
    names = [name for family in registry.FAMILIES for name in family.architectures]
    assert len(names) == len(set(names))
    wrapped = [name for wrapper in wrappers.WRAPPERS for name in wrapper.architectures]
    assert len(wrapped) == len(set(wrapped))
    refused = ENCODERS | SEQ_TO_SEQ | SPEECH | VISION
    assert not refused & set(types)
    assert all(w.text_type is None or w.text_type in registry.BY_TYPE for w in wrappers.WRAPPERS)
    assert all(family.reader in registry.READERS for family in registry.FAMILIES)


def test_known_models_are_many():
    assert len(known_models()) >= 130


def test_a_negative_number_of_shared_experts_is_refused():
    config = next(c for c in CONFIGS if c.get("model_type") == "gpt_oss")
    with pytest.raises(InputError, match="'n_shared_experts' must be a whole number between 1 and"):
        read_layers({**config, "n_shared_experts": -37})


@pytest.mark.parametrize("key", ["hidden_size", "moe_intermediate_size"])
def test_sizes_that_no_model_has_are_refused_by_name(key):
    config = next(c for c in CONFIGS if c.get("model_type") == "deepseek_v3")
    with pytest.raises(InputError, match=f"more than any model has: is '{key}' \\(10+\\) right"):
        read_layers({**config, key: 10**8})
