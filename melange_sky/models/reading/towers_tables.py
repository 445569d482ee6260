"""Encoders that end in a table of visual words, a resampler with queries of its own, or a convolution."""

from __future__ import annotations

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, shown
from melange_sky.models.layers import Matrix, norm
from melange_sky.models.reading.defaults import class_defaults
from melange_sky.models.reading.patterns import sparse_layers
from melange_sky.models.reading.towers_clip import clip_or_siglip
from melange_sky.models.reading.vit import (
    Vit,
    depth,
    grid,
    patch_values,
    projection,
    projector_norm,
    two_layers,
    vit,
)


def _beside(name: str, values: int) -> Matrix:
    return Matrix(name=name, part="projector", inputs=values, linear=False)


def aimv2(vision: Fields) -> tuple[Matrix, ...]:
    """Read an AIMv2 tower: a gated transformer with norms without bias."""
    hidden = vision.whole("hidden_size")
    bias = vision.flag("qkv_bias") or vision.flag("use_bias")
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision),
        positions=grid(vision),
        gated=True,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        norm_values=1,
        beside=2 * hidden,
    )
    return vit(sizes, "visual_tokenizer.vit")


def _visual_words(hidden: int, words: int, text: int) -> tuple[Matrix, ...]:
    """Return the head over visual words and the table of their embeddings; 5 words stand for marks."""
    kinds = max(1, words - 5)
    return (
        projection("visual_tokenizer.head", kinds, hidden, False),
        _beside("visual_tokenizer.norm", 2 * kinds),
        _beside("vte", words * text),
    )


def ovis(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the visual tokenizer of Ovis 1.6, 2 and 2.5."""
    stride = vision.maybe("hidden_stride") or 1
    words = vision.maybe("vocab_size") or outer.maybe("visual_vocab_size") or 65536
    vision.read.add("tokenize_function")
    backbone = vision.section("backbone_config") or vision
    kind = backbone.text("model_type")
    if "siglip" in kind:
        backbone.read.update(("num_patches", "preserve_original_pe", "window_size"))
        tower = _navit(backbone) if "navit" in kind else clip_or_siglip(backbone, outer, text)
    elif "aimv2" in kind or "ovis2" in kind:
        tower = aimv2(backbone)
    else:
        raise InputError(
            f"{backbone.where}: 'model_type' holds '{shown(kind)}', an unsupported encoder"
        )
    merged = backbone.whole("hidden_size") * stride * stride
    return (*tower, *_visual_words(merged, words, outer.maybe("hidden_size") or text))


def _navit(vision: Fields) -> tuple[Matrix, ...]:
    """Read a SigLIP 2 for any size of image; positions are learned where the original ones are kept."""
    hidden = vision.whole("hidden_size")
    number = vision.get("num_patches")
    patches = number if isinstance(number, int) and number > 0 else grid(vision)
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision, vision.maybe("temporal_patch_size") or 1),
        positions=patches if vision.flag("preserve_original_pe", True) else 0,
        beside=2 * hidden,
    )
    return vit(sizes, "visual_tokenizer.vit")


def minicpm_v(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the SigLIP and the resampler of MiniCPM-V 2.5 to 4.5 and of MiniCPM-o."""
    layers = depth(vision)
    dropped = 1 if outer.flag("drop_vision_last_layer") and layers > 1 else 0
    changed = {"num_hidden_layers": layers - dropped, "vision_use_head": False}
    shorter = vision.changed(changed)
    tower = clip_or_siglip(shorter, outer, text)
    queries = outer.whole("query_num", 64)
    outer.read.update(("patch_size", "slice_config"))
    return (
        *tower,
        projection("resampler.kv_proj", text, vision.whole("hidden_size"), False),
        projection("resampler.attn.in_proj", 3 * text, text),
        projection("resampler.attn.out_proj", text, text),
        projection("resampler.proj", text, text, False),
        _beside("resampler.query", queries * text + 6 * text),
    )


def minicpm_v_merged(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the SigLIP of MiniCPM-V 4.6, which merges patches within the tower and behind it."""
    hidden, width = vision.whole("hidden_size"), vision.whole("intermediate_size")
    outer.read.update(("insert_layer_id", "downsample_mode", "merger_times", "merge_kernel_size"))
    outer.read.update(("drop_vision_last_layer", "patch_size", "image_size"))
    merged = 4 * hidden
    window = vision.wholes("window_kernel_size") or [2, 2]
    within = hidden * max(1, window[0]) * max(1, window[-1])
    attention = 4 * hidden * hidden + 4 * hidden + 2 * hidden
    matrices = [
        *clip_or_siglip(vision, outer, text),
        _beside("vit_merger.self_attn", attention),
        projector_norm("vit_merger", 2 * within),
        *two_layers("vit_merger", within, within // hidden * width, hidden),
    ]
    times = outer.maybe("merger_times") or 1
    for step in range(times):
        last = step == times - 1
        matrices.append(projector_norm("merger.mlp", 2 * merged))
        matrices += two_layers("merger.mlp", merged, merged, text if last else hidden)
    return tuple(matrices)


def idefics2(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Idefics 2: a SigLIP, a gated projection, and a perceiver."""
    hidden = vision.whole("hidden_size")
    section, inside = outer.section("perceiver_config"), outer.section("text_config")
    perceiver = section or Fields({}, outer.where)
    inner = 14336 if inside is None else inside.whole("intermediate_size", 14336)
    size = text  # whatever the section states
    perceiver.read.add("hidden_size")
    head = perceiver.whole("resampler_head_dim", 96)
    queries = perceiver.whole("resampler_n_heads", 16) * head
    keys = perceiver.whole("num_key_value_heads", 4) * head
    layers = perceiver.whole("resampler_depth", 3)
    latents = perceiver.whole("resampler_n_latents", 64)
    each = 2 * size * queries + 2 * size * keys + 12 * size * size + 3 * size
    return (
        *clip_or_siglip(vision, outer, text),
        projection("connector.modality_projection.gate_proj", inner, hidden, False),
        projection("connector.modality_projection.up_proj", inner, hidden, False),
        projection("connector.modality_projection.down_proj", size, inner, False),
        _beside("connector.perceiver_resampler", layers * each + latents * size + size),
    )


def aria(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Aria: a SigLIP and a cross-attention with queries of its own."""
    hidden = vision.whole("hidden_size")
    outer.read.add("projector_patch_to_query_dict")
    queries = outer.maybe("max_value_projector_patch_to_query_dict") or 256
    return (
        *clip_or_siglip(vision, outer, text),
        projection("multi_modal_projector.cross_attn.qkv", 6 * hidden, hidden, False),
        projection("multi_modal_projector.cross_attn.out", 2 * hidden, hidden),
        _beside("multi_modal_projector.query", queries * hidden + 9 * hidden),
        projection("multi_modal_projector.linear_in", text, hidden, False),
        projection("multi_modal_projector.linear_out", text, text, False),
    )


def _with_class_token(vision: Fields, name: str, positions: int) -> tuple[Matrix, ...]:
    """Return a plain tower that begins with a class token, without a norm behind its layers."""
    hidden = vision.whole("hidden_size")
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision),
        positions=positions,
        beside=hidden,
    )
    return vit(sizes, name)


def glm4v_eva(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the EVA-CLIP of GLM-4V-9B: one strided convolution and a gated projector."""
    hidden = vision.whole("hidden_size")
    inner = outer.whole("ffn_hidden_size")
    return (
        *_with_class_token(vision, "transformer.vision", vision.whole("num_positions")),
        projection("transformer.vision.conv", text, 4 * hidden),
        projection("transformer.vision.linear_proj.linear_proj", text, text, False),
        projection("transformer.vision.linear_proj.gate_proj", inner, text, False),
        projection("transformer.vision.linear_proj.dense_h_to_4h", inner, text, False),
        projection("transformer.vision.linear_proj.dense_4h_to_h", text, inner, False),
        _beside("transformer.vision.marks", 4 * text),
    )


def step3(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Step-3: two strided convolutions before one projection."""
    hidden = vision.whole("hidden_size")
    outputs = vision.whole("output_hidden_size", 4096)
    return (
        *_with_class_token(vision, "vision_model", grid(vision, 1)),
        projection("vit_downsampler", outputs, 4 * hidden),
        projection("vit_downsampler2", 2 * outputs, 9 * outputs),
        projection("vit_large_projector", text, 2 * outputs, outer.flag("projector_bias", True)),
    )


def ernie_vl(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of ERNIE 4.5 VL: merged over space and time by a resampler."""
    hidden = vision.maybe("embed_dim") or vision.whole("hidden_size")
    width = vision.maybe("intermediate_size") or int(hidden * vision.number("mlp_ratio", 4.0))
    vision.read.update(("hidden_size", "mlp_ratio"))
    space = hidden * (vision.maybe("spatial_merge_size") or 2) ** 2
    time = space * (vision.maybe("temporal_merge_size") or outer.maybe("temporal_conv_size") or 2)
    outer.read.update(("pixel_hidden_size", "spatial_conv_size", "temporal_conv_size"))
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=width,
        patch_values=patch_values(vision),
        patch_bias=False,
        beside=2 * hidden,
    )
    return (
        *vit(sizes, "vision_model"),
        *two_layers("resampler_model.spatial_linear", space, space, space),
        *two_layers("resampler_model.temporal_linear", time, space, space),
        projection("resampler_model.mlp", text, space),
        _beside("resampler_model.norms", 4 * space + text),
        *_vision_experts(outer, text),
    )


def _vision_experts(outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Return the experts beside those of text, which only tokens of images pass."""
    section = outer.section("text_config", class_defaults("ernie4_5_vl_moe_text")) or outer
    counts = section.get("num_experts")
    widths = section.get("moe_intermediate_size")
    if not isinstance(counts, list) and not isinstance(widths, list):
        return ()
    count = (
        section.wholes("num_experts")
        if isinstance(counts, list)
        else [section.whole("num_experts")]
    )
    width = section.wholes("moe_intermediate_size") if isinstance(widths, list) else []
    if not count or not width or len(width) < 2:
        return ()
    sparse = sum(sparse_layers(section, section.layers()))
    experts = count[-1] * (3 * width[-1] * text + text + 1)
    return (_beside("vision_moe", sparse * experts),)


def perception(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the RADIO encoder of Nemotron Nano VL: a ViT-H and two matrices on four patches."""
    hidden = outer.whole("vit_hidden_size", 1280)
    inner = outer.whole("projector_hidden_size", 4 * text)
    vision.read.update(vision.raw)
    sizes = Vit(
        hidden=hidden,
        layers=32,
        width=4 * hidden,
        patch_values=3 * 16 * 16,
        positions=128 * 128 + 10,
        patch_bias=False,
    )
    merged = 4 * hidden
    return (
        *vit(sizes, "vision_model"),
        norm("mlp1.norm", merged),
        *two_layers("mlp1", merged, inner, text, False),
    )
