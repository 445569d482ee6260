"""A decoder put together layer by layer: the reader that most families share."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields
from melange_sky.models.layers import (
    NO_FEED_FORWARD,
    FeedForward,
    Layer,
    Matrix,
    norm,
)
from melange_sky.models.reading.core import Core, read_core
from melange_sky.models.reading.family import Family, is_on
from melange_sky.models.reading.mixers import mix
from melange_sky.models.reading.patterns import Mixer, mixers, sparse_layers
from melange_sky.models.reading.widths import expert_count, read_dense, read_experts


@dataclass(slots=True, kw_only=True)
class Decoder:
    """The language model of a config while it is read; `core` holds the sizes that all layers share."""

    core: Core
    layers: list[Layer]
    outside: list[Matrix]
    extra_heads: list[Matrix] = field(default_factory=list)
    tied: bool = False
    assumptions: list[str] = field(default_factory=list)


def read_decoder(fields: Fields, family: Family) -> Decoder:
    """Read a decoder whose layers are one attention and one feed-forward each."""
    core = read_core(fields, family)
    kinds = mixers(fields, family, core.layers)
    count = expert_count(fields, family)
    sparse = sparse_layers(fields, core.layers) if count else [False] * core.layers
    if count and family.experts is not None:  # a width that no layer has is no unread structure
        fields.read.update((family.experts.dense_width, family.experts.dense_first or ""))
    if family.linear != "none" and "linear" not in kinds and fields.has("layer_types"):
        _pass_linear(fields, family, core)
    layers: list[Layer] = []
    alike: dict[tuple[Mixer, bool], Layer] = {}
    single = _differ_one_by_one(fields)
    for i, kind in enumerate(kinds):
        layer = None if single else alike.get((kind, sparse[i]))
        if layer is None:
            layer = read_layer(kind, count if sparse[i] else 0, fields, family, core, i)
            alike[(kind, sparse[i])] = layer
        layers.append(layer)
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.tied = is_tied(fields, family)
    decoder.extra_heads = read_extra_heads(fields, family, core, layers)
    return decoder


def _pass_linear(fields: Fields, family: Family, core: Core) -> None:
    """Take as read what would size linear layers where `layer_types` has none of them (Granite 4.0 Micro)."""
    from melange_sky.models.reading.states import read_linear  # most models have none

    apart = Fields(fields.raw, fields.where, fields.defaults, fields.withheld)
    with suppress(InputError):
        read_linear(apart, family, core)
    fields.read.update(apart.read)


_ONE_BY_ONE = (
    "num_attention_heads_per_layer",
    "indexer_types",
    "index_topk",
    "index_topk_pattern",
    "sparse_attention_config",
)


def _differ_one_by_one(fields: Fields) -> bool:
    """Return whether layers of one kind may still differ, by a list with an entry for each."""
    listed = isinstance(fields.raw.get("intermediate_size"), list)
    return listed or any(fields.raw.get(key) is not None for key in _ONE_BY_ONE)


def read_layer(
    kind: Mixer, experts: int, fields: Fields, family: Family, core: Core, number: int
) -> Layer:
    """Return one layer: its attention, its feed-forward and its norms."""
    attention, mixing = mix(kind, fields, family, core, number)
    fed: FeedForward = NO_FEED_FORWARD
    feeding: tuple[Matrix, ...] = ()
    if experts:
        fed, feeding = read_experts(fields, family, core, experts)
    elif family.mlp_module:
        fed, feeding = read_dense(fields, family, core, number)
    shared: tuple[Matrix, ...] = ()
    if family.shared_dense is not None and fields.maybe(family.shared_dense) is not None:
        shared = _shared_dense(fields, family, core)
        if not experts:
            feeding = ()
    norms = norms_of(fields, family, core.hidden)
    return Layer(
        attention=attention, feed_forward=fed, matrices=(*mixing, *feeding, *shared, *norms)
    )


def _shared_dense(fields: Fields, family: Family, core: Core) -> tuple[Matrix, ...]:
    """Granite: one dense feed-forward beside the experts, or in their place."""
    assert family.shared_dense is not None
    width = fields.whole(family.shared_dense)
    return (
        Matrix(
            name="shared_mlp.input_linear",
            part="shared_experts",
            outputs=2 * width,
            inputs=core.hidden,
        ),
        Matrix(
            name="shared_mlp.output_linear",
            part="shared_experts",
            outputs=core.hidden,
            inputs=width,
        ),
    )


def norms_of(fields: Fields, family: Family, hidden: int) -> tuple[Matrix, ...]:
    """Return the norms of one layer."""
    count = family.norms
    if family.norms_field is not None and fields.flag(family.norms_field[0]):
        count = family.norms_field[1]
    values = count * family.norm_values * hidden + family.extra_per_layer
    return (norm("norms", values),) if values else ()


def is_tied(fields: Fields, family: Family, default: bool = False) -> bool:
    """Return whether the output head is the embedding; some classes keep a head whatever a config says."""
    tied = fields.flag("tie_word_embeddings", default) and not family.own_head
    if not tied and fields.raw.get("lm_head") is True:  # DeepSeek-VL2 says that there is one
        fields.read.add("lm_head")
    if tied and family.seeks_head:
        fields.told.append(
            "'tie_word_embeddings' is true: engines hold an output head for this architecture nevertheless, which "
            "its files may not have"
        )
    if not tied and family.shares_head:
        fields.told.append(
            "'tie_word_embeddings' is false: engines hold no output head for this architecture, and leave that of its "
            "files unread"
        )
    return tied


def read_outside(fields: Fields, family: Family, core: Core) -> list[Matrix]:
    """Return what stands outside of the layers: embeddings, last norm, output head."""
    embedding_width = fields.maybe("word_embed_proj_dim") or core.hidden
    outside = _embeddings(fields, family, core, embedding_width)
    if family.extra_words is not None:
        outside.append(_added_words(fields, family.extra_words, core))
    if family.embedding_norm:
        outside.append(norm("model.embedding_norm", family.norm_values * core.hidden))
    if family.final_norm and family.norm_values:
        outside.append(norm("model.norm", family.norm_values * core.hidden))
    if not is_tied(fields, family):
        bias = core.vocabulary if is_on(fields, family.head_bias) else 0
        outside.append(
            Matrix(
                name="lm_head",
                part="head",
                outputs=core.vocabulary,
                inputs=embedding_width,
                extra=bias,
            )
        )
    return outside


def _added_words(fields: Fields, key: str, core: Core) -> Matrix:
    """Return the embedding of words that have no output."""
    return Matrix(
        name="model.embed_tokens.new_embedding",
        part="embedding",
        outputs=fields.whole(key, 128),
        inputs=core.hidden,
        linear=False,
    )


def _embeddings(fields: Fields, family: Family, core: Core, width: int) -> list[Matrix]:
    """Return the embedding of tokens, `width` wide, and that of positions where they are learned."""
    embeddings = [
        Matrix(
            name="model.embed_tokens",
            part="embedding",
            outputs=core.vocabulary,
            inputs=width,
            linear=False,
        )
    ]
    if width != core.hidden:  # OPT-350m projects a narrower embedding in and out
        embeddings += [
            Matrix(
                name=f"model.project_{way}",
                part="adapter",
                outputs=core.hidden,
                inputs=width,
            )
            for way in ("in", "out")
        ]
    if family.positions is not None:
        positions = fields.whole("max_position_embeddings") + family.positions
        embeddings.append(
            Matrix(
                name="model.embed_positions",
                part="embedding",
                outputs=positions,
                inputs=core.hidden,
                linear=False,
            )
        )
    return embeddings


def read_extra_heads(
    fields: Fields, family: Family, core: Core, layers: list[Layer]
) -> list[Matrix]:
    """Return the layers that predict further tokens, one projection and norms with each.

    They are as the last layer is, with full attention (DeepSeek-V3, arXiv 2412.19437, §2.2). Engines
    leave them out unless they speculate with them.
    """
    if family.extra_heads == "none":
        fields.read.update(
            ("num_mtp_modules", "mtp_transformer_layers", "num_nextn_predict_layers")
        )
        return []
    number = 0
    for key in ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"):
        if fields.has(key):  # no class default says what a checkpoint holds
            number = number or fields.maybe(key) or 0
    if not number or number > 16:
        return []
    full = [layer for layer in layers if layer.attention.kind != "linear"] or layers
    pattern = full[0 if family.extra_heads == "first" else -1]
    heads = [
        Matrix(name="eh_proj", part="adapter", outputs=core.hidden, inputs=2 * core.hidden),
        norm("norms", 3 * core.hidden),
        *pattern.matrices,
    ]
    if family.extra_heads_copies:
        heads += [
            Matrix(
                name=name,
                part="embedding",
                outputs=core.vocabulary,
                inputs=core.hidden,
                linear=False,
            )
            for name in ("embed_tokens", "shared_head")
        ]
    return heads * number
