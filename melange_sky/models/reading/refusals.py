"""What a config describes that is no decoder of text: named as what it is."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from melange_sky.errors import InputError
from melange_sky.models.fields import shown

ENCODERS = frozenset(
    [
        "albert",
        "bert",
        "camembert",
        "convbert",
        "data2vec-text",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "ernie",
        "esm",
        "eurobert",
        "flaubert",
        "funnel",
        "gte",
        "ibert",
        "layoutlm",
        "layoutlmv2",
        "layoutlmv3",
        "longformer",
        "luke",
        "megatron-bert",
        "mobilebert",
        "modernbert",
        "mpnet",
        "mpt_encoder",
        "nomic_bert",
        "nystromformer",
        "rembert",
        "roberta",
        "roformer",
        "splinter",
        "squeezebert",
        "xlm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xlnet",
        "big_bird",
        "new",
        "jina_embeddings_v3",
        "embedding_gemma2",
        "t5encoder",
    ]
)
SEQ_TO_SEQ = frozenset(
    [
        "bart",
        "barthez",
        "bartpho",
        "bigbird_pegasus",
        "blenderbot",
        "blenderbot-small",
        "encoder-decoder",
        "fsmt",
        "led",
        "longt5",
        "m2m_100",
        "marian",
        "mbart",
        "mt5",
        "mvp",
        "nllb-moe",
        "pegasus",
        "pegasus_x",
        "plbart",
        "prophetnet",
        "switch_transformers",
        "t5",
        "t5gemma",
        "t5gemma2",
        "udop",
        "umt5",
        "florence2",
        "mllama",
        "vision-encoder-decoder",
    ]
)
SPEECH = frozenset(
    [
        "whisper",
        "wav2vec2",
        "wav2vec2-bert",
        "hubert",
        "wavlm",
        "speecht5",
        "speech_to_text",
        "moonshine",
        "qwen2_audio",
        "voxtral",
        "voxtral_realtime",
        "granite_speech",
        "ultravox",
        "qwen3_asr",
        "cohere_asr",
        "parakeet",
        "glmasr",
        "seamless_m4t",
        "musicgen",
        "bark",
        "csm",
        "dia",
        "encodec",
        "mimi",
        "moshi",
        "vits",
        "kyutai_speech_to_text",
        "audioflamingo3",
        "fun_asr_nano",
    ]
)
VISION = frozenset(
    [
        "vit",
        "clip",
        "clip_vision_model",
        "siglip",
        "siglip2",
        "siglip_vision_model",
        "dinov2",
        "dinov3_vit",
        "beit",
        "deit",
        "swin",
        "swinv2",
        "convnext",
        "resnet",
        "detr",
        "sam",
        "sam2",
        "sam3",
        "segformer",
        "owlvit",
        "owlv2",
        "yolos",
        "depth_anything",
        "grounding-dino",
        "rt_detr",
        "pixtral_vision",
    ]
)
STATES = frozenset(
    ["mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv5", "rwkv6", "rwkv6qwen2", "rwkv7", "xlstm"]
)
DRAFTS = ("eagle", "mtp", "dspark", "dflash", "medusa", "mlp_speculator", "speculator", "assistant")
_SUFFIXES = (
    ("ForSequenceClassification", "classifier"),
    ("ForTokenClassification", "classifier"),
    ("ForQuestionAnswering", "extractor of answers"),
    ("ForRewardModel", "reward model"),
    ("ForProcessRewardModel", "reward model"),
    ("ForMaskedLM", "encoder"),
    ("EmbeddingModel", "embedding model"),
    ("ForRetrieval", "embedding model"),
    ("BidirectionalModel", "embedding model"),
    ("ForRanking", "reranker"),
    ("ForCTC", "speech recogniser"),
    ("ForSpeechSeq2Seq", "speech recogniser"),
    ("ForImageClassification", "image classifier"),
    ("ForObjectDetection", "object detector"),
    ("Transformer2DModel", "diffusion model"),
    ("UNet2DConditionModel", "diffusion model"),
)
_PATTERNS = (
    (r"RewardModel", "reward model"),
    (r"Embed|^Col[A-Z]|SentenceTransformer", "embedding model"),
    (r"Audio|Speech|Voice|TTS|ASR|Asr(?![a-z])", "speech model"),
    (r"For([A-Za-z]*Segmentation|DepthEstimation|Image[A-Za-z]+|Video[A-Za-z]+)$", "vision model"),
)
"""What the names of architectures that are not read say, sought in this order."""

_MISLEADING = r"moondream|eagle\d_\d_vl"
"""Names that hold a word of another kind."""

_DIFFUSION = ("diffusion", "llada", "dream", "unet", "flux", "bagel", "pixart")


def what_it_is(config: Mapping[str, Any], decoders: Container[str] = ()) -> str | None:
    """Return what a config describes in a few words where it is no decoder, else None.

    `decoders`: architectures that are read, whose backbones alone are embedding models.

    >>> what_it_is({"architectures": ["BertModel"], "model_type": "bert"})
    'an encoder (BertModel), not a decoder-only transformer: nothing to decode'
    """
    kind = _kind(config, decoders)
    if kind is None:
        return None
    article = "an" if kind[0] in "aeiou" else "a"
    tail = ": nothing to decode" if kind == "encoder" else ""
    return f"{article} {kind} ({_name(config)}), not a decoder-only transformer{tail}"


def _name(config: Mapping[str, Any]) -> str:
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and isinstance(architectures[0], str):
        return shown(architectures[0], 60)
    for key in ("_class_name", "model_type"):
        if isinstance(config.get(key), str):
            return shown(config[key], 60)
    return "no architecture"


def _kind(config: Mapping[str, Any], decoders: Container[str]) -> str | None:
    name = _name(config)
    model_type = str(config.get("model_type", "")).lower()
    by_name = _kind_by_name(config, name, decoders)
    if by_name is not None:
        return by_name
    for known, words in (
        (ENCODERS, "encoder"),
        (SEQ_TO_SEQ, "encoder-decoder model"),
        (SPEECH, "speech model"),
        (VISION, "vision model"),
        (STATES, "model of states without a KV cache"),
    ):
        if model_type in known:
            return words
    if any(word in model_type for word in DRAFTS):
        return "draft model"
    if any(word in model_type for word in _DIFFUSION):
        return "diffusion model"
    if config.get("is_encoder_decoder") is True:
        return "encoder-decoder model"
    return None


def _kind_by_name(config: Mapping[str, Any], name: str, decoders: Container[str]) -> str | None:
    for suffix, words in _SUFFIXES:
        if name.endswith(suffix):
            return words
    if "_diffusers_version" in config or "_class_name" in config:
        return "diffusion model"
    folded = re.sub(_MISLEADING, "", name.lower())
    if any(word in folded for word in ("eagle", "mtpmodel", "draftmodel", "medusa")):
        return "draft model"
    if _is_backbone(name, decoders):
        return "embedding model without an output head"
    if any(word in folded for word in _DIFFUSION):
        return "diffusion model"
    return next((words for pattern, words in _PATTERNS if re.search(pattern, name)), None)


def _is_backbone(name: str, decoders: Container[str]) -> bool:
    """Return whether a name is that of a decoder less its output head, such as `Qwen2Model`."""
    short = name.removesuffix("Model").removesuffix("Text")
    endings = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
    return name.endswith("Model") and any(short + ending in decoders for ending in endings)


MOST_PARAMETERS = 10**14


def check_size(config: Mapping[str, Any], parameters: int, where: str) -> None:
    """Raise InputError, with the largest size that a config states, where it makes more than any model has."""
    if parameters <= MOST_PARAMETERS:
        return
    name, value = _largest(config)
    raise InputError(
        f"{where}: its fields make {parameters:.3g} parameters, more than any model has: is '{shown(name)}' "
        f"({value}) right?"
    )


def _largest(config: Mapping[str, Any]) -> tuple[str, int]:
    """Return the largest size of a config and its sections with its name; numbers of tokens and positions aside."""
    found = [("", 0)]
    for key, value in config.items():
        if isinstance(value, Mapping):
            found.append(_largest(value))
        elif isinstance(value, int) and "token" not in str(key) and "position" not in str(key):
            found.append((str(key), int(value)))
    return max(found, key=lambda row: row[1])
