"""Configs that wrap a language model: which section it stands in, and what stands beside it."""

from __future__ import annotations

from melange_sky.models.reading.wrapper import Wrapper
from melange_sky.models.reading.wrappers_others import OTHERS

WRAPPERS: tuple[Wrapper, ...] = (
    *OTHERS,
    Wrapper(
        types=("gemma3",),
        architectures=("Gemma3ForConditionalGeneration",),
        vision="gemma3",
        text_type="gemma3_text",
    ),
    Wrapper(
        types=("gemma3n",),
        architectures=("Gemma3nForConditionalGeneration",),
        text_type="gemma3n_text",
        fixed=(("vision", 300_000_000), ("audio", 680_000_000)),
        left_out=("vision_config", "audio_config"),
    ),
    Wrapper(
        types=("gemma4", "gemma4_unified"),
        architectures=("Gemma4ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"),
        vision="gemma4",
        audio="gemma4_audio",
        optional_audio=True,
        text_type="gemma4_text",
    ),
    Wrapper(
        types=("paligemma",),
        architectures=("PaliGemmaForConditionalGeneration",),
        vision="paligemma",
        text_type="gemma",
    ),
    Wrapper(
        types=("llava", "vipllava"),
        architectures=("LlavaForConditionalGeneration",),
        vision="llava",
        text_type="llama",
    ),
    Wrapper(
        types=("llava_next", "llava_next_video", "llava_onevision"),
        architectures=(
            "LlavaNextForConditionalGeneration",
            "LlavaNextVideoForConditionalGeneration",
            "LlavaOnevisionForConditionalGeneration",
        ),
        vision="llava",
        text_type="llama",
    ),
    Wrapper(
        types=("mistral3",),
        architectures=("Mistral3ForConditionalGeneration",),
        vision="mistral3",
        text_type="mistral",
    ),
    Wrapper(
        types=("qwen2_vl",),
        architectures=("Qwen2VLForConditionalGeneration",),
        text="text_config|",
        vision="qwen2_vl",
        text_type="qwen2_vl_text",
    ),
    Wrapper(
        types=("qwen2_5_vl",),
        architectures=("Qwen2_5_VLForConditionalGeneration",),
        text="text_config|",
        vision="qwen2_5_vl",
        text_type="qwen2_5_vl_text",
    ),
    Wrapper(
        types=("qwen3_vl",),
        architectures=("Qwen3VLForConditionalGeneration",),
        vision="qwen3_vl",
        text_type="qwen3_vl_text",
    ),
    Wrapper(
        types=("qwen3_vl_moe",),
        architectures=("Qwen3VLMoeForConditionalGeneration",),
        vision="qwen3_vl",
        text_type="qwen3_vl_moe_text",
    ),
    Wrapper(
        types=("qwen3_5",),
        architectures=("Qwen3_5ForConditionalGeneration",),
        vision="qwen3_vl",
        text_type="qwen3_5_text",
    ),
    Wrapper(
        types=("qwen3_5_moe",),
        architectures=("Qwen3_5MoeForConditionalGeneration",),
        vision="qwen3_vl",
        text_type="qwen3_5_moe_text",
    ),
    Wrapper(
        types=("qwen2_5_omni",),
        architectures=("Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"),
        within="thinker_config",
        vision="qwen2_5_vl",
        audio="whisper_encoder",
        text_type="qwen2",
        unloaded=("talker_config", "token2wav_config"),
    ),
    Wrapper(
        types=("qwen3_omni_moe",),
        architectures=("Qwen3OmniMoeForConditionalGeneration",),
        within="thinker_config",
        vision="qwen3_vl",
        audio="omni_audio",
        text_type="qwen3_omni_moe_text",
        unloaded=("talker_config", "code2wav_config"),
    ),
    Wrapper(
        types=("llama4",),
        architectures=("Llama4ForConditionalGeneration",),
        vision="llama4",
        text_type="llama4_text",
    ),
    Wrapper(
        types=("glm4v", "glm46v"),
        architectures=("Glm4vForConditionalGeneration", "Glm46VForConditionalGeneration"),
        vision="glm4v",
        text_type="glm4v_text",
    ),
    Wrapper(
        types=("glm4v_moe",),
        architectures=("Glm4vMoeForConditionalGeneration",),
        vision="glm4v",
        text_type="glm4v_moe_text",
    ),
    Wrapper(
        types=("glm_ocr",),
        architectures=("GlmOcrForConditionalGeneration",),
        vision="glm4v",
        text_type="glm_ocr_text",
    ),
    Wrapper(
        types=("internvl",),
        architectures=("InternVLForConditionalGeneration", "InternS1ForConditionalGeneration"),
        vision="internvl",
        text_type="qwen2",
    ),
    Wrapper(
        types=("internvl_chat",),
        architectures=("InternVLChatModel",),
        text="llm_config",
        vision="internvl",
    ),
    Wrapper(
        types=("idefics3", "smolvlm"),
        architectures=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
        vision="idefics3",
        text_type="llama",
    ),
    Wrapper(
        types=("lfm2_vl", "lfm2-vl"),
        architectures=("Lfm2VlForConditionalGeneration",),
        vision="lfm2_vl",
        text_type="lfm2",
    ),
    Wrapper(
        types=("cohere2_vision",),
        architectures=("Cohere2VisionForConditionalGeneration",),
        vision="cohere2_vision",
        text_type="cohere2",
    ),
    Wrapper(
        types=("exaone4_5",),
        architectures=("Exaone4_5_ForConditionalGeneration",),
        vision="qwen2_5_vl",
        text_type="exaone4",
    ),
    Wrapper(
        types=("kimi_k25",),
        architectures=("KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration"),
        vision="moonvit",
        text_type="deepseek_v3",
    ),
    Wrapper(
        types=("kimi_vl",),
        architectures=("KimiVLForConditionalGeneration",),
        vision="moonvit",
        text_type="deepseek_v3",
    ),
    Wrapper(
        types=("kimi_k3",),
        architectures=("KimiK3ForConditionalGeneration",),
        vision="moonvit",
        text_type="kimi_linear",
    ),
    Wrapper(
        types=("minimax_m3_vl",),
        architectures=("MiniMaxM3SparseForConditionalGeneration",),
        vision="minimax_m3",
        text_type="minimax_m3_vl_text",
    ),
    Wrapper(
        types=("step3p7",),
        architectures=("Step3p7ForConditionalGeneration", "Step3p7FlashForCausalLM"),
        text="text_config|",
        vision="step",
        text_type="step3p5",
    ),
    Wrapper(
        types=("paddleocr_vl",),
        architectures=("PaddleOCRVLForConditionalGeneration",),
        text="text_config|",
        vision="paddle_ocr",
        text_type="ernie4_5",
    ),
)

BY_TYPE: dict[str, Wrapper] = {name: wrapper for wrapper in WRAPPERS for name in wrapper.types}
BY_ARCHITECTURE: dict[str, Wrapper] = {
    name: wrapper for wrapper in WRAPPERS for name in wrapper.architectures
}
