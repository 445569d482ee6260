"""Encoders whose sizes stand in no field: what the model's own code builds, and its projector."""

from __future__ import annotations

from melange_sky.models.fields import Fields
from melange_sky.models.layers import Matrix
from melange_sky.models.reading.defaults import class_defaults
from melange_sky.models.reading.towers_clip import internvl
from melange_sky.models.reading.vit import Vit, projection, side, two_layers, vit

CLIP_LARGE = Vit(
    hidden=1024,
    layers=24,
    width=4096,
    patch_values=588,
    positions=577,
    patch_bias=False,
    beside=5120,
)
"""CLIP ViT-L/14 at 336 pixels (Radford et al., arXiv 2103.00020), its last norm included."""

SIGLIP = Vit(hidden=1152, layers=27, width=4304, patch_values=588, positions=1024, beside=2304)
"""SigLIP SO400M/14 at 448 pixels (Zhai et al., arXiv 2303.15343)."""


def _beside(name: str, values: int) -> Matrix:
    return Matrix(name=name, part="projector", inputs=values, linear=False)


def phi3_v(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the CLIP of Phi-3-vision and Phi-3.5-vision; four patches become one."""
    vision.read.update(vision.raw)
    outer.read.add("embd_layer")
    merged = 4 * vision.whole("image_dim_out", 1024)
    return (
        *vit(CLIP_LARGE, "vision_embed_tokens.img_processor"),
        *two_layers("vision_embed_tokens.img_projection", merged, text, text),
        _beside("vision_embed_tokens.separators", 2 * merged),
    )


def phi4_mm(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the SigLIP of Phi-4-multimodal, and the two adapters of its language model."""
    vision.read.update(vision.raw)
    outer.read.update(("embd_layer", "audio_processor", "vision_lora", "speech_lora"))
    hidden = SIGLIP.hidden
    matrices = [
        *vit(SIGLIP, "vision_embed_tokens.img_processor"),
        *two_layers("vision_embed_tokens.img_projection", hidden, text, text),
    ]
    for name in ("vision_lora", "speech_lora"):
        section = outer.section(name)
        if section is not None:
            matrices += _adapter(name, section, outer, text)
    return tuple(matrices)


def _adapter(name: str, section: Fields, outer: Fields, text: int) -> list[Matrix]:
    """Return low-rank matrices on attention and feed-forward of every layer."""
    section.read.update(section.raw)
    rank, layers = section.whole("r"), outer.layers()
    heads = outer.whole("num_attention_heads")
    head = text // heads
    joined = text + 2 * head * (outer.maybe("num_key_value_heads") or heads)
    width = outer.whole("intermediate_size")
    sides = (text + joined) + 2 * text + (text + 2 * width) + (width + text)
    return [_beside(name, layers * rank * sides)]


def molmo(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the CLIP of Molmo, pooled by attention over four patches of two of its layers."""
    inner = outer.whole("intermediate_size") // 2
    hidden = CLIP_LARGE.hidden
    tower = Vit(
        hidden=hidden,
        layers=23,
        width=4096,
        patch_values=588,
        positions=577,
        patch_bias=False,
        beside=3 * hidden,
    )
    return (
        *vit(tower, "vision_backbone.image_vit"),
        projection("vision_backbone.image_pooling_2d.qkv", 3 * hidden, 2 * hidden),
        projection("vision_backbone.image_pooling_2d.wo", hidden, hidden),
        projection("vision_backbone.image_projector.gate_proj", inner, hidden, False),
        projection("vision_backbone.image_projector.up_proj", inner, hidden, False),
        projection("vision_backbone.image_projector.down_proj", text, inner, False),
        _beside("vision_backbone.pad_embed", 4 * hidden),
    )


def molmo2(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the SigLIP of Molmo 2, whose adapter stands in a section of its own.

    Released files name more layers than the adapter takes, and end with the last that it does.
    """
    hidden, stated = vision.whole("hidden_size"), vision.layers()
    section = outer.section("adapter_config", class_defaults("molmo2_adapter"))
    adapter = section or Fields({}, outer.where, class_defaults("molmo2_adapter"))
    own, bias = adapter.whole("hidden_size"), adapter.flag("mlp_bias")
    inner, outputs = adapter.whole("intermediate_size"), adapter.maybe("text_hidden_size") or text
    old = adapter.items("vit_layers")
    chosen = old or adapter.items("vision_feature_layer") or [24, 18]
    if old and all(isinstance(number, int) for number in old):
        stated = min(stated, max(number % stated for number in old) + 1)
    sources = len(chosen) * hidden
    patch = side(vision, "image_patch_size" if vision.has("image_patch_size") else "patch_size", 14)
    queries, keys = _own_heads(vision)
    pooling_queries, pooling_keys = _own_heads(adapter)
    sizes = Vit(
        hidden=hidden,
        layers=stated,
        width=vision.whole("intermediate_size"),
        patch_values=(vision.maybe("num_channels") or 3) * patch * patch,
        positions=vision.maybe("image_num_pos") or vision.whole("num_position_embeddings", 729),
        query_width=queries,
        kv_width=keys,
    )
    return (
        *vit(sizes, "vision_tower"),
        projection("adapter.image_pooling_2d.q_proj", pooling_queries, sources),
        projection("adapter.image_pooling_2d.kv_proj", 2 * pooling_keys, sources),
        projection("adapter.image_pooling_2d.o_proj", own, pooling_queries),
        projection("adapter.image_projector.gate_proj", inner, own, bias),
        projection("adapter.image_projector.up_proj", inner, own, bias),
        projection("adapter.image_projector.down_proj", outputs, inner, False),
    )


def _own_heads(section: Fields) -> tuple[int, int]:
    """Return how wide the queries and the keys are where heads may be of any size and number."""
    size = section.whole("head_dim", 72)
    heads = section.whole("num_attention_heads", 16)
    return heads * size, section.whole("num_key_value_heads", heads) * size


def deepseek_vl2(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the SigLIP of DeepSeek-VL2 and its projector."""
    hidden = vision.whole("width", 1152)
    patch = vision.whole("patch_size", 14)
    across = vision.whole("image_size", 384) // patch
    sizes = Vit(
        hidden=hidden,
        layers=vision.whole("layers", 27),
        width=int(hidden * vision.number("mlp_ratio", 4.0)),
        patch_values=3 * patch * patch,
        positions=across * across,
        beside=2 * hidden,
    )
    return (*vit(sizes, "vision"), *_deepseek_projector(outer, hidden, text))


def _deepseek_projector(outer: Fields, hidden: int, text: int) -> tuple[Matrix, ...]:
    section = outer.section("projector_config")
    made = section or Fields({}, outer.where)
    inputs, outputs = made.whole("input_dim", hidden), made.whole("n_embed", text)
    marks = _beside("projector.marks", 2 * outputs)
    if made.text("projector_type") == "linear":
        return (projection("projector.layers", outputs, inputs), marks)
    inner = outputs * made.whole("mlp_ratio", 1)
    merged = inputs * made.whole("downsample_ratio", 2) ** 2
    between = max(0, made.whole("depth", 2) - 2)
    return (
        *two_layers("projector.layers", merged, inner, outputs),
        *(projection(f"projector.layers.{i}", inner, inner) for i in range(between)),
        marks,
    )


def deepseek_ocr(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the two encoders of DeepSeek-OCR: a SAM ViT-B before a CLIP ViT-L."""
    vision.read.update(vision.raw)
    sam = Vit(
        hidden=768,
        layers=12,
        width=3072,
        patch_values=768,
        positions=64 * 64,
        beside=(4 * 254 + 8 * 54) * 64,
    )
    clip = Vit(
        hidden=1024,
        layers=24,
        width=4096,
        patch_values=588,
        positions=257,
        patch_bias=False,
        beside=3072,
    )
    convolved = 768 * 256 + 9 * 256 * 256 + 4 * 256 + 9 * 256 * 512 + 9 * 512 * 1024
    return (
        *vit(sam, "sam_model"),
        _beside("sam_model.neck", convolved),
        *vit(clip, "vision_model"),
        *_deepseek_projector(outer, 2048, text),
    )


def dots_ocr(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the gated encoder of dots.ocr and its merger."""
    hidden = vision.whole("embed_dim", 1536)
    bias = vision.flag("use_bias")
    patch = vision.whole("patch_size", 14)
    sizes = Vit(
        hidden=hidden,
        layers=vision.layers(),
        width=vision.whole("intermediate_size"),
        patch_values=3 * patch * patch,
        gated=True,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        norm_values=1,
        beside=2 * hidden + 2 * hidden,
    )
    merged = hidden * vision.whole("spatial_merge_size", 2) ** 2
    outputs = vision.whole("hidden_size", text)
    return (
        *vit(sizes, "vision_tower"),
        *two_layers("vision_tower.merger", merged, merged, outputs),
    )


def nvlm(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the InternViT of NVLM-D, joined through the width of the language model."""
    section = outer.section("llm_config") or outer.section("text_config")
    inner = 4 * text if section is None else section.whole("intermediate_size")
    tower = [m for m in internvl(vision, outer, text) if not m.name.startswith("mlp1")]
    merged = 4 * vision.whole("hidden_size")
    return (
        *tower,
        _beside("mlp1.norm", 2 * merged),
        *two_layers("mlp1", merged, inner, text, False),
    )
