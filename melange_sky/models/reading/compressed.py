"""DeepSeek-V4: attention over a window and over compressed tokens, with hyper-connections."""

from __future__ import annotations

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, shown
from melange_sky.models.layers import Attention, Layer, Matrix, norm
from melange_sky.models.reading.core import Core, Mixed, read_core
from melange_sky.models.reading.decoder import Decoder, is_tied, read_extra_heads, read_outside
from melange_sky.models.reading.family import Family
from melange_sky.models.reading.widths import expert_count, read_experts

_RATES = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}


def read_deepseek_v4(fields: Fields, family: Family) -> Decoder:
    """Read DeepSeek-V4, whose layers differ in how many tokens one cached entry stands for."""
    core = read_core(fields, family)
    rates = _rates(fields, core.layers)
    count = expert_count(fields, family)
    if not count:
        raise InputError(f"{fields.where}: no 'n_routed_experts', which DeepSeek-V4 has")
    streams = fields.whole("hc_mult", 4)
    layers = []
    for rate in rates:
        attention, attending = _attention(rate, fields, core)
        fed, feeding = read_experts(fields, family, core, count)
        layers.append(
            Layer(
                attention=attention,
                feed_forward=fed,
                matrices=(
                    *attending,
                    *feeding,
                    norm("norms", 2 * core.hidden),
                    *_hyper_connections(streams, core.hidden),
                ),
            )
        )
    decoder = Decoder(core=core, layers=layers, outside=read_outside(fields, family, core))
    decoder.outside.append(
        Matrix(
            name="hc_head",
            part="adapter",
            outputs=streams,
            inputs=streams * core.hidden,
            extra=streams + 1,
            linear=False,
        )
    )
    decoder.tied = is_tied(fields, family)
    decoder.extra_heads = read_extra_heads(fields, family, core, layers[:1])
    return decoder


def _rates(fields: Fields, layers: int) -> list[int]:
    fields.read.update(("compress_rates", "mlp_layer_types", "layer_types", "num_hash_layers"))
    ratios = fields.wholes("compress_ratios", layers)
    if ratios is not None:
        return ratios
    words = fields.words("layer_types", layers)
    if words is None:
        raise InputError(
            f"{fields.where}: no 'compress_ratios': they say which layers compress their cache"
        )
    unknown = next((word for word in words if word not in _RATES), None)
    if unknown is not None:
        raise InputError(
            f"{fields.where}: 'layer_types' holds '{shown(unknown)}', an unsupported kind of layer"
        )
    return [_RATES[word] for word in words]


def _attention(rate: int, fields: Fields, core: Core) -> Mixed:
    hidden, heads, head_dim = core.hidden, core.heads, core.head_dim
    query_rank, groups = fields.whole("q_lora_rank"), fields.whole("o_groups", 1)
    output_rank = fields.whole("o_lora_rank")

    def part(name: str, outputs: int, inputs: int, extra: int = 0) -> Matrix:
        return Matrix(
            name=f"attn.{name}", part="attention", outputs=outputs, inputs=inputs, extra=extra
        )

    matrices = [
        part("wq_a", query_rank, hidden, query_rank),
        part("wq_b", heads * head_dim, query_rank),
        part("wkv", head_dim, hidden, head_dim + heads),
        part("wo_a", groups * output_rank, heads * head_dim // groups),
        part("wo_b", hidden, groups * output_rank),
    ]
    fixed = 0.0
    if rate:
        wide = 2 if rate <= 4 else 1  # the finer compression looks at two blocks
        matrices += _compressor("attn.compressor", wide * head_dim, hidden, rate, head_dim)
    if rate and rate <= 4:
        index_heads, index_dim = fields.whole("index_n_heads"), fields.whole("index_head_dim")
        matrices += _compressor("attn.indexer.compressor", 2 * index_dim, hidden, rate, index_dim)
        matrices.append(part("indexer.wq_b", index_heads * index_dim, query_rank))
        matrices.append(part("indexer.weights_proj", index_heads, hidden))
        fixed = (index_dim + 4) / rate
    attention = Attention(
        kind="sparse" if rate else "sliding",
        heads=heads,
        kv_heads=1,
        head_dim=head_dim,
        kv_values=head_dim / rate if rate else 0.0,
        window_values=head_dim,
        window=fields.whole("sliding_window"),
        fixed_bytes=fixed,
        pair_flops=4 * heads * head_dim,
    )
    return attention, tuple(matrices)


def _compressor(name: str, width: int, hidden: int, rate: int, head_dim: int) -> list[Matrix]:
    return [
        Matrix(name=f"{name}.wkv", part="attention", outputs=width, inputs=hidden),
        Matrix(name=f"{name}.wgate", part="attention", outputs=width, inputs=hidden),
        norm(f"{name}.ape", rate * width + head_dim),
    ]


def _hyper_connections(streams: int, hidden: int) -> tuple[Matrix, ...]:
    """Manifold-constrained hyper-connections: `streams` residuals, mixed before and after each part."""
    rows = (2 + streams) * streams
    return tuple(
        Matrix(
            name=f"hc_{half}_fn",
            part="adapter",
            outputs=rows,
            inputs=streams * hidden,
            extra=rows + 3,
            linear=False,
        )
        for half in ("attn", "ffn")
    )
