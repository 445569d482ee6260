"""Which layer of a model is of which kind: every way in which configs say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, shown
from melange_sky.models.reading.family import Family

Mixer = Literal["full", "sliding", "chunked", "linear", "none"]

WORDS: dict[str, Mixer] = {
    "full_attention": "full",
    "attention": "full",
    "full": "full",
    "global": "full",
    "global_attention": "full",
    "deepseek_sparse_attention": "full",
    "indexed_attention": "full",
    "minimax_m3_sparse": "full",
    "sliding_attention": "sliding",
    "sliding_window": "sliding",
    "local_attention": "sliding",
    "swa": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "linear",
    "mamba2": "linear",
    "conv": "linear",
    "short_conv": "linear",
    "recurrent": "linear",
    "kda": "linear",
}
"""What `layer_types` and its like call a layer."""


REPEATED = "layer_types_repeated"
"""Under what name class defaults say which kinds of layer follow each other, over and over."""

_WINDOW_FIELDS = (
    "sliding_window",
    "sliding_window_size",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "global_attn_every_n_layers",
    "layer_group_size",
    "hybrid_layer_pattern",
    "full_attn_idxs",
    "layers_block_type",
    "full_attention_interval",
    "conv_L_cache",
    "attention_chunk_size",
    "num_sliding_attention_heads",
    "original_max_position_embeddings",
    "linear_conv_kernel_dim",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
)
"""Fields that only some kinds of layer use: where there is no such layer, they change nothing."""


def mixers(fields: Fields, family: Family, layers: int) -> list[Mixer]:
    """Return the kind of attention of each layer."""
    fields.read.update(_WINDOW_FIELDS)
    stated = _stated(fields, layers)
    if stated is not None:
        fields.read.add("use_sliding_window")
        if family.window == "alternate_always" and stated != _alternate(fields, layers, 1):
            fields.told.append(
                f"'layer_types' is not every other layer with a window, which is what engines run for {family.types[0]}"
            )
        return stated
    if family.all_linear:
        return ["linear"] * layers
    window = fields.maybe("sliding_window")
    rule = _WINDOW_RULES[family.window]
    return rule(fields, layers, window)


def _stated(fields: Fields, layers: int) -> list[Mixer] | None:
    """Read the fields that name each layer or each linear one."""
    for key in ("layer_types", "layers_block_type", "attn_type_list"):
        values = fields.items(key)
        if values is None:
            continue
        if key == "attn_type_list":
            numbers = fields.wholes(key, layers) or []
            return ["full" if number else "linear" for number in numbers]
        words = fields.words(key, layers) or []
        unknown = next((word for word in words if word not in WORDS), None)
        if unknown is not None:
            raise InputError(
                f"{fields.where}: '{key}' holds '{shown(unknown)}', an unsupported kind of layer"
            )
        return [WORDS[word] for word in words]
    return _numbered(fields, layers) or _repeated(fields, layers)


def _repeated(fields: Fields, layers: int) -> list[Mixer] | None:
    """Return the kinds that the class of a config repeats over its layers where a file names none."""
    words = fields.defaults.get(REPEATED)
    if words is None:
        return None
    fields.assumed.add("layer_types")
    return [WORDS[words[i % len(words)]] for i in range(layers)]


def _numbered(fields: Fields, layers: int) -> list[Mixer] | None:
    """Read the fields that number the layers with full attention."""
    full = fields.wholes("full_attn_idxs")
    if full is None and isinstance(fields.raw.get("attn_layer_indices"), list):
        full = fields.wholes("attn_layer_indices")
    if full is not None:
        return ["full" if i in set(full) else "linear" for i in range(layers)]
    section = fields.section("linear_attn_config")
    if section is not None:
        linear = set(section.wholes("kda_layers") or [])
        section.wholes("full_attn_layers")
        return ["linear" if i + 1 in linear else "full" for i in range(layers)]
    if (period := fields.maybe("attn_layer_period")) is not None:
        offset = fields.maybe("attn_layer_offset") or 0
        return ["full" if i % period == offset else "linear" for i in range(layers)]
    if (interval := fields.maybe("full_attention_interval")) is not None:
        if not _has_linear(fields):
            return None
        return ["linear" if (i + 1) % interval else "full" for i in range(layers)]
    if (group := fields.maybe("layer_group_size")) is not None:
        return [
            "full" if (i + 1) % group == 0 or i >= layers // group * group else "linear"
            for i in range(layers)
        ]
    return None


def _has_linear(fields: Fields) -> bool:
    return "next" in fields.text("model_type") or "3_5" in fields.text("model_type")


def _by_field(fields: Fields, layers: int, window: int | None) -> list[Mixer]:
    if window is None or fields.raw.get("use_sliding_window") is False:
        return ["full"] * layers
    return _by_pattern(fields, layers, window) if _pattern(fields) else ["sliding"] * layers


def _qwen(fields: Fields, layers: int, window: int | None) -> list[Mixer]:
    fields.read.add("use_sliding_window")
    if window is None or not fields.flag("use_sliding_window"):
        return ["full"] * layers
    first = fields.maybe("max_window_layers") or 0
    return ["sliding" if i >= first else "full" for i in range(layers)]


def _alternate(fields: Fields, layers: int, window: int | None) -> list[Mixer]:
    if window is None:
        return ["full"] * layers
    return ["full" if i % 2 else "sliding" for i in range(layers)]


def _pattern(fields: Fields) -> int | str | None:
    for key in (
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "global_attn_every_n_layers",
    ):
        value = fields.get(key)
        if value is None:
            continue
        if key.startswith("_") and fields.raw.get(key) is not None:
            fields.told.append(
                f"'{key}' without 'layer_types': the class of transformers leaves it unread and takes its own pattern"
            )
        if isinstance(value, str) and value and set(value) <= {"L", "G"}:
            return value
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        raise InputError(f"{fields.where}: '{key}' must be a number, or letters L and G")
    return None


def _by_pattern(fields: Fields, layers: int, window: int | None) -> list[Mixer]:
    pattern = _pattern(fields)
    if window is None or pattern is None:
        return ["full"] * layers
    if isinstance(pattern, str):  # EXAONE: the last layer attends to everything
        kinds: list[Mixer] = [
            "sliding" if pattern[i % len(pattern)] == "L" else "full" for i in range(layers)
        ]
        return [*kinds[:-1], "full"]
    if pattern == 1:
        return ["sliding"] * layers
    return ["sliding" if (i + 1) % pattern else "full" for i in range(layers)]


def _mimo(fields: Fields, layers: int, window: int | None) -> list[Mixer]:
    flags = fields.wholes("hybrid_layer_pattern", layers)
    if window is None:
        return ["full"] * layers
    if flags is None:
        raise InputError(
            f"{fields.where}: no 'hybrid_layer_pattern': needed to tell layers with a window from the others"
        )
    return ["sliding" if flag else "full" for flag in flags]


def _chunks(fields: Fields, layers: int, window: int | None) -> list[Mixer]:
    """Llama 4: chunked attention wherever there is a rotary embedding (`no_rope_layers` 1)."""
    if fields.maybe("attention_chunk_size") is None:
        return ["full"] * layers
    rope = fields.wholes("no_rope_layers")
    if not rope:
        interval = fields.maybe("no_rope_layer_interval") or 4
        rope = [(i + 1) % interval for i in range(layers)]
    if len(rope) < layers:
        raise InputError(
            f"{fields.where}: 'no_rope_layers' has {len(rope)} entries for {layers} layers"
        )
    return ["chunked" if rope[i] else "full" for i in range(layers)]


def _ignored(fields: Fields, layers: int, window: int | None) -> list[Mixer]:
    return ["full"] * layers


_WINDOW_RULES: dict[str, Callable[[Fields, int, int | None], list[Mixer]]] = {
    "field": _by_field,
    "qwen": _qwen,
    "alternate": _alternate,
    "alternate_always": _alternate,
    "pattern": _by_pattern,
    "mimo": _mimo,
    "chunks": _chunks,
    "ignored": _ignored,
}


def sparse_layers(fields: Fields, layers: int) -> list[bool]:
    """Return for each layer whether its feed-forward is a mixture of experts."""
    stated = _stated_sparse(fields, layers)
    if stated is not None:
        fields.read.update(("first_k_dense_replace", "num_dense_layers", "moe_layer_freq"))
        fields.read.add("interleave_moe_layer_step")
        return stated
    first_dense = min(
        layers, fields.maybe("first_k_dense_replace") or fields.maybe("num_dense_layers") or 0
    )
    skipped = fields.get("moe_layer_num_skipped")
    if isinstance(skipped, int) and not isinstance(skipped, bool) and skipped > 0:
        first_dense = min(layers, skipped)
    period = fields.maybe("expert_layer_period")
    if period is not None:
        offset = fields.maybe("expert_layer_offset") or 0
        return [i % period == offset for i in range(layers)]
    if any(fields.get(key) is not None for key in ("moe_layer_interval", "moe_layer_start_index")):
        return _ernie(fields, layers)
    frequency = fields.maybe("moe_layer_freq") or 1
    step = fields.maybe("decoder_sparse_step") or fields.maybe("interleave_moe_layer_step") or 1
    dense = set(fields.wholes("mlp_only_layers") or [])
    return [
        i >= first_dense and i % frequency == 0 and (i + 1) % step == 0 and i not in dense
        for i in range(layers)
    ]


def _stated_sparse(fields: Fields, layers: int) -> list[bool] | None:
    """Read the fields that say it layer by layer."""
    kinds = fields.words("mlp_layer_types", layers)
    if kinds is not None:
        unknown = next((kind for kind in kinds if kind not in ("dense", "sparse")), None)
        if unknown is not None:
            raise InputError(
                f"{fields.where}: 'mlp_layer_types' holds '{shown(unknown)}', which is not supported"
            )
        sparse = [kind == "sparse" for kind in kinds]
        _tell_dense_first(fields, sparse)
        return sparse
    for key in ("moe_layer_freq", "is_moe_layer"):
        if isinstance(fields.raw.get(key), list):
            fields.read.add(key)
            flags = fields.raw[key]
            if len(flags) < layers or not all(isinstance(flag, int) for flag in flags):
                raise InputError(f"{fields.where}: '{key}' must hold {layers} times 0 or 1")
            return [bool(flag) for flag in flags[:layers]]
    listed = fields.get("moe_layers_enum")
    if isinstance(listed, str) and listed:
        numbers = {int(n) for n in listed.split(",") if n.strip().isdigit() and len(n) < 9}
        return [i in numbers for i in range(layers)]
    if isinstance(fields.raw.get("moe_layers"), list):
        chosen = set(fields.wholes("moe_layers") or [])
        return [i in chosen for i in range(layers)]
    return None


def _tell_dense_first(fields: Fields, sparse: list[bool]) -> None:
    """Tell where the layers that a list names are not those that engines find by their number."""
    first = fields.get("first_k_dense_replace")
    if isinstance(first, int) and sparse != [i >= first for i in range(len(sparse))]:
        fields.told.append(
            f"'mlp_layer_types' is not what 'first_k_dense_replace' ({first}) makes, which engines may go by"
        )


def _ernie(fields: Fields, layers: int) -> list[bool]:
    """Ernie 4.5: a range of layers, every n-th of them."""

    def index(key: str, default: int) -> int:
        value = fields.get(key)
        value = max(value) if isinstance(value, list) and value else value
        if value is None or (isinstance(value, int) and value == -1):
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"{fields.where}: '{key}' must be a whole number")
        return value

    start, end = index("moe_layer_start_index", 0), index("moe_layer_end_index", layers - 1)
    interval = max(1, index("moe_layer_interval", 1))
    return [start <= i <= end and (i + 1) % interval == 0 for i in range(layers)]
