"""Models that see through a plain CLIP, SigLIP, Pixtral or InternViT: the encoder, and what joins it to the text."""

from __future__ import annotations

from melange_sky.models.fields import Fields
from melange_sky.models.layers import Matrix
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


def clip_or_siglip(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read a CLIP, SigLIP or SigLIP 2 tower without its projector."""
    hidden, kind = vision.whole("hidden_size"), vision.text("model_type")
    width = vision.whole("intermediate_size")
    clip = "clip" in kind and "siglip" not in kind
    patches = vision.maybe("num_patches") or grid(vision)
    beside = 2 * hidden + (hidden + 2 * hidden if clip else 0)
    if vision.flag("vision_use_head", False) and not clip:
        attention = 4 * hidden * hidden + 4 * hidden
        beside += hidden + attention + 2 * hidden + 2 * hidden * width + width + hidden
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=width,
        patch_values=patch_values(vision),
        positions=patches + (1 if clip else 0),
        patch_bias=not clip,
        beside=beside,
    )
    return vit(sizes, "vision_tower")


def pixtral(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read a Pixtral tower without its projector."""
    hidden = vision.whole("hidden_size")
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision),
        gated=True,
        qkv_bias=False,
        o_bias=False,
        mlp_bias=False,
        patch_bias=False,
        norm_values=1,
        beside=hidden,
    )
    return vit(sizes, "vision_tower")


def _plain_tower(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    reader = pixtral if "pixtral" in vision.text("model_type") else clip_or_siglip
    return reader(vision, outer, text)


def llava(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read a LLaVA-like tower: two matrices join it to the language model."""
    hidden = vision.whole("hidden_size")
    bias = outer.flag("multimodal_projector_bias", True)
    joined = two_layers("multi_modal_projector", hidden, text, text, bias)
    return (*_plain_tower(vision, outer, text), *joined)


def mistral3(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Mistral Small 3 and its kin: a Pixtral whose patches are merged."""
    hidden, merge = vision.whole("hidden_size"), outer.maybe("spatial_merge_size") or 2
    bias = outer.flag("multimodal_projector_bias", False)
    return (
        *pixtral(vision, outer, text),
        projector_norm("multi_modal_projector", hidden),
        projection("multi_modal_projector.merging_layer", hidden, hidden * merge**2, False),
        *two_layers("multi_modal_projector", hidden, text, text, bias),
    )


def gemma3(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Gemma 3: a SigLIP and one matrix."""
    hidden = vision.whole("hidden_size")
    return (
        *clip_or_siglip(vision, outer, text),
        projection("multi_modal_projector.mm_input_projection", hidden, text, False),
        projector_norm("multi_modal_projector", hidden),
    )


def paligemma(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of PaliGemma."""
    hidden = vision.whole("hidden_size")
    stated = vision.maybe("projection_dim")
    width = outer.maybe("projection_dim") or stated or text  # the outer one replaces it
    return (
        *clip_or_siglip(vision, outer, text),
        projection("multi_modal_projector.linear", width, hidden),
    )


def idefics3(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Idefics 3 and SmolVLM."""
    hidden = vision.whole("hidden_size")
    merge = (outer.maybe("scale_factor") or 2) ** 2
    return (
        *clip_or_siglip(vision, outer, text),
        projection("connector.modality_projection", text, hidden * merge, False),
    )


def lfm2_vl(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of LFM2-VL."""
    merged = vision.whole("hidden_size") * (outer.maybe("downsample_factor") or 2) ** 2
    inner = outer.maybe("projector_hidden_size") or text
    normed = outer.flag("projector_use_layernorm", True)
    return (
        *clip_or_siglip(vision, outer, text),
        *((projector_norm("multi_modal_projector", 2 * merged),) if normed else ()),
        *two_layers(
            "multi_modal_projector", merged, inner, text, outer.flag("projector_bias", True)
        ),
    )


def cohere2_vision(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Command A Vision."""
    merged = vision.whole("hidden_size") * (outer.maybe("downsample_factor") or 2) ** 2
    inner = outer.maybe("alignment_intermediate_size") or 36864
    return (
        *clip_or_siglip(vision, outer, text),
        projection("multi_modal_projector.linear_1", inner, merged),
        projection("multi_modal_projector.linear_2", text, inner // 2),
    )


def paddle_ocr(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of PaddleOCR-VL."""
    merged = vision.whole("hidden_size") * vision.whole("spatial_merge_size", 2) ** 2
    return (
        *clip_or_siglip(vision, outer, text),
        projector_norm("mlp_AR", 2 * vision.whole("hidden_size")),
        *two_layers("mlp_AR", merged, merged, text),
    )


def aya_vision(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Aya Vision: the first matrix feeds a gate."""
    merged = vision.whole("hidden_size") * (outer.maybe("downsample_factor") or 2) ** 2
    inner = outer.maybe("alignment_intermediate_size") or text
    return (
        *clip_or_siglip(vision, outer, text),
        projector_norm("multi_modal_projector", 2 * merged),
        projection("multi_modal_projector.linear_1", inner, merged),
        projection("multi_modal_projector.linear_2", text, inner // 2),
    )


def vip_llava(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of ViP-LLaVA, which joins several layers of its CLIP."""
    layer = outer.get("vision_feature_layer")
    chosen = outer.items("vision_feature_layers") or (layer if isinstance(layer, list) else None)
    chosen = chosen or [0] * 5
    sources = len(chosen) * vision.whole("hidden_size")
    return (
        *clip_or_siglip(vision, outer, text),
        projector_norm("multi_modal_projector", 2 * sources),
        *two_layers("multi_modal_projector", sources, text, text),
    )


def video_llama3(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of VideoLLaMA 3: a SigLIP whose positions are rotary."""
    hidden = vision.whole("hidden_size")
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=vision.whole("intermediate_size"),
        patch_values=patch_values(vision),
        beside=2 * hidden,
    )
    return (*vit(sizes, "vision_model"), *two_layers("projector", hidden, text, text))


def keye(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the tower of Keye-VL: a SigLIP with a second table of positions, for packed images."""
    hidden = vision.whole("hidden_size")
    changed = {"vision_use_head": False, "spatial_merge_size": 2}  # whatever a file says
    headless = vision.changed(changed)
    packed = Matrix(name="visual.packing", part="tower", inputs=32768 * hidden, linear=False)
    return (*paddle_ocr(headless, outer, text), packed)


def internvl(vision: Fields, outer: Fields, text: int) -> tuple[Matrix, ...]:
    """Read the InternViT of InternVL: layer scales, and patches merged, mostly two by two."""
    hidden, width = vision.whole("hidden_size"), vision.whole("intermediate_size")
    head_norms = vision.flag("use_qk_norm") or vision.flag("qk_normalization")
    remote = vision.flag("qkv_bias", False)
    rms = "rms" in vision.text("norm_type")
    sizes = Vit(
        hidden=hidden,
        layers=depth(vision),
        width=width,
        patch_values=patch_values(vision),
        positions=grid(vision, 1) if vision.flag("use_absolute_position_embeddings", True) else 0,
        qkv_bias=vision.flag("attention_bias") or remote,
        norm_values=1 if rms else 2,
        layer_extra=2 * hidden + (2 * hidden if head_norms else 0),
        beside=hidden,
    )
    merged = max(1, int(1 / outer.number("downsample_ratio", 0.5))) ** 2 * hidden
    return (
        *vit(sizes, "vision_model"),
        projector_norm("mlp1", 2 * merged),
        *two_layers("mlp1", merged, text, text),
    )
