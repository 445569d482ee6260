"""Whether the output head is the embedding, where an outer config says it as well as the language model's section."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melange_sky.models.layers import Matrix

if TYPE_CHECKING:
    from melange_sky.models.fields import Fields
    from melange_sky.models.reading.decoder import Decoder

EITHER = frozenset(
    [
        "glm4v",
        "glm4v_moe",
        "glm_ocr",
        "llava",
        "llava_next_video",
        "llava_onevision",
        "minimax_m3_vl",
        "paddleocr_vl",
        "qwen2_5_vl",
        "qwen2_vl",
        "video_llama_3",
    ]
)
"""Types whose class in `transformers` 5 ties the head where the outer config or its section says so."""

UNTIED = frozenset(
    [
        "aria",
        "exaone4_5",
        "glm46v",
        "idefics2",
        "idefics3",
        "llama4",
        "llava_next",
        "minicpmv4_6",
        "minicpmv4_7",
        "qianfan_ocr",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_vl",
        "qwen3_vl_moe",
        "smolvlm",
        "step3p7",
        "vipllava",
    ]
)
"""Types whose outer class says that the head is a matrix of its own where the file does not say it there."""

TIED = frozenset(
    [
        "aya_vision",
        "cohere2_vision",
        "ernie4_5_vl_moe",
        "gemma3",
        "gemma3n",
        "gemma4",
        "gemma4_unified",
        "lfm2_vl",
        "ovis2",
        "paddleocr_vl",
        "paligemma",
    ]
)
"""Types whose outer class ties the head where the file does not say it there."""

OWN_SECTION = frozenset(["llama4"])
"""Types that go by the section alone."""

_KEY = "tie_word_embeddings"
_ABSENT = object()
_TWICE = f"'{_KEY}' is stated twice and differs"
_UNTIED = "read with an output head, as its section says; engines go by the outer one and hold none"
_IN_VAIN = (
    "read as tied, as its section says; engines go by the outer one and may find no output head"
)


def tie_as_outside(
    decoder: Decoder, outer: Fields, text: Fields, model_type: str, own_head: bool = False
) -> str | None:
    """Follow the outer config in whether the head is the embedding; return what it contradicts.

    `transformers` up to 4 goes by the section where both say it, from 5 on by the outer config or, for
    some classes, by either. Engines go by `transformers` 5, but keep a head that the files hold: what they
    would not find there is told in `text.told`. `own_head`: neither ties it.
    """
    outer.read.add(_KEY)
    stated, own = outer.raw.get(_KEY, _ABSENT), text.raw.get(_KEY)
    stated = False if stated is None else stated  # null unties, as false does
    if stated is _ABSENT and own is True and model_type in UNTIED:
        text.told.append(f"'{_KEY}' is false by the outer config's class: {_IN_VAIN}")
    if stated is _ABSENT and model_type in TIED:
        _tell_or_tie(decoder, own, text)
    if not isinstance(stated, bool) or stated == decoder.tied or own_head:
        return None
    if not isinstance(own, bool) and model_type in OWN_SECTION:
        text.told.append(
            f"'{_KEY}' is {str(stated).lower()} in the outer config, which its class leaves unread"
        )
        return None
    if not isinstance(own, bool) or outer.raw is text.raw:
        _tie(decoder, stated or (model_type in EITHER and outer.raw is not text.raw))
        return None
    if model_type in EITHER:
        _tie(decoder, True)
        return f"{_TWICE}: either ties the output head"
    if _written_by_five(outer):
        _tie(decoder, stated)
        return f"{_TWICE}: the outer one is taken"
    text.told.append(f"{_TWICE}: {_UNTIED if stated else _IN_VAIN}")
    return f"{_TWICE}: its section's is taken"


def _tell_or_tie(decoder: Decoder, own: object, text: Fields) -> None:
    """Follow the outer class, which ties the head, unless the section says otherwise: that is told."""
    if own is False:
        text.told.append(f"'{_KEY}' is true by the outer config's class: {_UNTIED}")
    elif own is _ABSENT:
        _tie(decoder, True)


def _written_by_five(outer: Fields) -> bool:
    major = str(outer.raw.get("transformers_version", "")).split(".")[0]
    return major.isdigit() and int(major[:4]) >= 5


def _tie(decoder: Decoder, tied: bool) -> None:
    if tied == decoder.tied:
        return
    if tied:
        decoder.outside = [m for m in decoder.outside if m.part != "head"]
    else:
        decoder.outside.append(
            Matrix(
                name="lm_head",
                part="head",
                outputs=decoder.core.vocabulary,
                inputs=decoder.core.hidden,
            )
        )
    decoder.tied = tied
