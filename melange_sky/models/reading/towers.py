"""Encoders of models that take more than text, each as its checkpoints hold it."""

from __future__ import annotations

from collections.abc import Callable

from melange_sky.models.fields import Fields
from melange_sky.models.layers import Matrix, Tower
from melange_sky.models.reading import towers_audio, towers_clip, towers_deep, towers_tables
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

Reader = Callable[[Fields, Fields, int], tuple[Matrix, ...]]
"""(vision section, outer config, width of the language model) → weights."""


def gemma4(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Gemma 4."""
    hidden = vision.whole("hidden_size")
    heads = vision.whole("num_attention_heads")
    head_dim = vision.maybe("head_dim") or hidden // heads
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision),
        positions=2 * vision.whole("position_embedding_size", 10240),
        gated=True,
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        patch_bias=False,
        norms=4,
        norm_values=1,
        layer_extra=2 * head_dim,
        query_width=heads * head_dim,
        kv_width=(vision.maybe("num_key_value_heads") or heads) * head_dim,
    )
    joined = projection("embed_vision.embedding_projection", text, hidden, False)
    return (*vit(sizes, "vision_tower"), joined)


def qwen2_vl(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Qwen2-VL."""
    hidden = vision.whole("embed_dim", 1280)
    merge = vision.whole("spatial_merge_size", 2) ** 2
    ratio = vision.number("mlp_ratio", 4.0)
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=int(hidden * ratio),
        patch_values=patch_values(vision, vision.whole("temporal_patch_size", 2)),
        patch_bias=False,
        beside=2 * hidden,
    )
    outputs = vision.maybe("hidden_size") or text
    joined = two_layers("visual.merger", hidden * merge, hidden * merge, outputs)
    return (*vit(sizes, "visual"), *joined)


def qwen2_5_vl(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Qwen2.5-VL and of EXAONE 4.5."""
    hidden = vision.whole("hidden_size")
    merge = vision.whole("spatial_merge_size", 2) ** 2
    heads = vision.whole("num_heads", 16)
    grouped = vision.maybe("num_key_value_heads")
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision, vision.whole("temporal_patch_size", 2)),
        gated=True,
        patch_bias=False,
        norm_values=1,
        beside=hidden,
        kv_width=None if grouped is None else hidden // heads * grouped,
    )
    outputs = vision.maybe("out_hidden_size") or text
    joined = two_layers("visual.merger", hidden * merge, hidden * merge, outputs)
    return (*vit(sizes, "visual"), *joined)


def qwen3_vl(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Qwen3-VL and Qwen3.5: deep features are merged once for each listed layer."""
    hidden = vision.whole("hidden_size")
    merged = hidden * vision.whole("spatial_merge_size", 2) ** 2
    outputs = vision.maybe("out_hidden_size") or text
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision, vision.whole("temporal_patch_size", 2)),
        positions=vision.maybe("num_position_embeddings") or 0,
        beside=2 * hidden,
    )
    matrices = [*vit(sizes, "visual"), *two_layers("visual.merger", merged, merged, outputs)]
    for _ in vision.wholes("deepstack_visual_indexes") or []:
        matrices += two_layers("visual.deepstack_merger", merged, merged, outputs)
        matrices.append(projector_norm("visual.deepstack_merger", 2 * merged))
    return tuple(matrices)


def glm4v(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of GLM-4.1V, 4.5V and GLM-OCR: its merger is a gated feed-forward of its own."""
    hidden, outputs = vision.whole("hidden_size"), vision.whole("out_hidden_size", text)
    stated, ocr = vision.whole("intermediate_size"), "ocr" in vision.text("model_type")
    merge = vision.whole("spatial_merge_size", 2) ** 2
    bias = vision.flag("attention_bias")
    inner = outputs * vision.whole("in_channels", 3) if ocr else stated
    head = hidden // vision.whole("num_heads")
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=stated if ocr else outputs,
        patch_values=patch_values(vision, vision.whole("temporal_patch_size", 2)),
        positions=0 if ocr else grid(vision),
        gated=True,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias and ocr,
        norm_values=1,
        layer_extra=2 * head if ocr else 0,
        beside=hidden if ocr else 2 * hidden,
    )
    return (
        *vit(sizes, "visual"),
        projection("visual.downsample", outputs, hidden * merge),
        projection("visual.merger.proj", outputs, outputs, False),
        projector_norm("visual.merger", 2 * outputs),
        projection("visual.merger.gate_proj", inner, outputs, False),
        projection("visual.merger.up_proj", inner, outputs, False),
        projection("visual.merger.down_proj", outputs, inner, False),
    )


def llama4(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Llama 4."""
    hidden, width = vision.whole("hidden_size"), vision.whole("intermediate_size")
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=width,
        patch_values=patch_values(vision),
        positions=grid(vision, 1),
        patch_bias=False,
        beside=hidden + 4 * hidden,
    )
    inner, outputs = vision.whole("projector_input_dim"), vision.whole("projector_output_dim")
    return (
        *vit(sizes, "vision_model"),
        projection("vision_model.vision_adapter.fc1", inner, width, False),
        projection("vision_model.vision_adapter.fc2", outputs, inner, False),
        projection(
            "multi_modal_projector.linear_1", text, vision.whole("vision_output_dim"), False
        ),
    )


def moonvit(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the MoonViT of Kimi-VL and Kimi K2.5."""
    hidden = vision.maybe("vt_hidden_size") or vision.whole("hidden_size")
    layers = vision.maybe("vt_num_hidden_layers") or depth(vision)
    width = vision.maybe("vt_intermediate_size") or vision.whole("intermediate_size")
    outer.read.add("projection_hidden_size")
    vision.read.update(  # of which engines make nothing: the sizes are repeated
        ("vt_num_attention_heads", "mm_hidden_size", "text_hidden_size", "video_attn_type")
    )
    rows = vision.maybe("init_pos_emb_height") or vision.whole("pos_emb_height", 64)
    columns = vision.maybe("init_pos_emb_width") or vision.whole("pos_emb_width", 64)
    merge = vision.wholes("merge_kernel_size") or [2, 2]
    merged = hidden * max(1, merge[0]) * max(1, merge[-1])
    sizes = Vit(
        hidden=hidden,
        layers=layers,
        width=width,
        patch_values=patch_values(vision),
        positions=rows * columns,
        qkv_bias=vision.flag("attn_bias", True),
        o_bias=vision.flag("attn_bias", True),
        mlp_bias=vision.flag("linear_bias", True),
        patch_bias=vision.flag("patch_embed_proj_bias", True),
        norm_values=1 if vision.text("norm_type") == "rmsnorm" else 2,
        query_width=vision.maybe("qkv_hidden_size"),
        beside=2 * hidden,
    )
    return (
        *vit(sizes, "vision_tower"),
        projector_norm("mm_projector", 2 * hidden),
        *two_layers("mm_projector", merged, merged, text),
    )


def minimax_m3(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of MiniMax-M3: a CLIP of two frames, and patches merged four by four."""
    hidden = vision.whole("hidden_size")
    section = vision.section("img_token_compression_config")
    frames, merge = 2, 2
    if section is not None:
        section.read.update(section.raw)
        frames = section.whole("temporal_patch_size", 2)
        merge = section.whole("spatial_merge_size", 2)
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision, frames),
        patch_bias=False,
        beside=2 * hidden,
    )
    inner = outer.maybe("projector_hidden_size") or text
    return (
        *vit(sizes, "vision_tower"),
        *two_layers("multi_modal_projector", hidden, inner, text),
        *two_layers("patch_merge_mlp", text * merge**2, inner, text),
    )


def step(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the perception encoder of Step-3.7: layer scales and two strided convolutions."""
    hidden = vision.maybe("width") or vision.whole("hidden_size")
    width = vision.maybe("intermediate_size")
    if width is None or vision.has("mlp_ratio"):  # by which its class replaces the width
        width = int(hidden * vision.number("mlp_ratio", 5.8334))
    sizes = Vit(
        hidden=hidden,
        layers=vision.maybe("layers") or depth(vision),
        width=width,
        patch_values=patch_values(vision),
        positions=grid(vision),
        patch_bias=False,
        layer_extra=2 * hidden,
        beside=2 * hidden,
    )
    return (
        *vit(sizes, "vision_model"),
        projection("vision_model.downsampler1", 2 * hidden, 9 * hidden),
        projection("vision_model.downsampler2", 4 * hidden, 18 * hidden),
        projection("multi_modal_projector", text, 4 * hidden, outer.flag("projector_bias")),
    )


def fixed(kind: str, name: str, values: int) -> Tower:
    """Return an encoder whose size its makers state, as no field of the config gives it."""
    matrix = Matrix(name=name, part="tower", inputs=values, linear=False)
    return Tower(kind=kind, matrices=(matrix,), estimated=True)


READERS: dict[str, Reader] = {
    "llava": towers_clip.llava,
    "mistral3": towers_clip.mistral3,
    "gemma3": towers_clip.gemma3,
    "paligemma": towers_clip.paligemma,
    "idefics3": towers_clip.idefics3,
    "lfm2_vl": towers_clip.lfm2_vl,
    "cohere2_vision": towers_clip.cohere2_vision,
    "paddle_ocr": towers_clip.paddle_ocr,
    "keye": towers_clip.keye,
    "aya_vision": towers_clip.aya_vision,
    "vip_llava": towers_clip.vip_llava,
    "video_llama3": towers_clip.video_llama3,
    "ovis": towers_tables.ovis,
    "minicpm_v": towers_tables.minicpm_v,
    "minicpm_v_merged": towers_tables.minicpm_v_merged,
    "minicpm_o_audio": towers_audio.minicpm_o_audio,
    "idefics2": towers_tables.idefics2,
    "aria": towers_tables.aria,
    "glm4v_eva": towers_tables.glm4v_eva,
    "step3": towers_tables.step3,
    "ernie_vl": towers_tables.ernie_vl,
    "radio": towers_tables.perception,
    "phi3_v": towers_deep.phi3_v,
    "phi4_mm": towers_deep.phi4_mm,
    "molmo": towers_deep.molmo,
    "molmo2": towers_deep.molmo2,
    "deepseek_vl2": towers_deep.deepseek_vl2,
    "deepseek_ocr": towers_deep.deepseek_ocr,
    "dots_ocr": towers_deep.dots_ocr,
    "nvlm": towers_deep.nvlm,
    "gemma4": gemma4,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "glm4v": glm4v,
    "llama4": llama4,
    "internvl": towers_clip.internvl,
    "moonvit": moonvit,
    "minimax_m3": minimax_m3,
    "step": step,
    "whisper_encoder": towers_audio.whisper_encoder,
    "omni_audio": towers_audio.omni_audio,
    "gemma4_audio": towers_audio.gemma4_audio,
}
"""Name that a wrapper gives → what reads the encoder."""
