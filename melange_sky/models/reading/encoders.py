"""The encoders that a wrapped config describes, each read by what its wrapper names."""

from __future__ import annotations

from collections.abc import Mapping

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields
from melange_sky.models.layers import Tower
from melange_sky.models.reading.defaults import class_defaults
from melange_sky.models.reading.wrapper import Wrapper


def read_towers(
    outer: Fields, wrapper: Wrapper | None, hidden: int
) -> tuple[tuple[Tower, ...], list[str]]:
    """Return the encoders beside a language model `hidden` wide, and what to warn of."""
    if wrapper is None:
        return (), []
    from melange_sky.models.reading import towers  # only multimodal configs need them

    built, warnings = [], []
    for kind, key, name in (
        ("vision", _vision_key(outer, wrapper), wrapper.vision),
        ("audio", "audio_config", wrapper.audio),
    ):
        section = outer.raw.get(key)
        outer.read.add(key)
        if name is not None and section is None and kind == "vision" and wrapper.always:
            section = {}
        if name is not None and section is None and kind == "vision":
            warnings.append(only_text(key))
        is_missed = name is not None and section is None
        if is_missed and kind == "audio" and not wrapper.optional_audio:
            warnings.append(f"no '{key}': no encoder of {kind} is counted")
        if name is None or section is None:
            continue
        if not isinstance(section, Mapping):
            raise InputError(f"{outer.where}: '{key}' must be a mapping")
        stated = section.get("model_type")
        type_name = stated if isinstance(stated, str) else ""
        defaults = class_defaults(type_name) or class_defaults(_section_type(wrapper, kind))
        fields = Fields(section, f"{outer.where}: {key}", defaults)
        outer.sections[key] = fields
        matrices = towers.READERS[name](fields, outer, hidden)
        built.append(Tower(kind=kind, matrices=matrices))
    for kind, values in wrapper.fixed:
        built.append(towers.fixed(kind, f"{kind}_tower", values))
        warnings.append(f"the {kind} encoder's size is its makers' figure, not in the config")
    for key in (*wrapper.left_out, *wrapper.unloaded):
        outer.read.add(key)
    outer.read.add(wrapper.text.rstrip("|"))
    return tuple(built), warnings


def _vision_key(outer: Fields, wrapper: Wrapper) -> str:
    older = wrapper.older_section
    is_older = older is not None and wrapper.vision_section not in outer.raw and older in outer.raw
    return older if older is not None and is_older else wrapper.vision_section


def only_text(key: str) -> str:
    """Return the warning where the section of the encoder is not there."""
    return f"no '{key}': only the language model is counted"


def _section_type(wrapper: Wrapper, kind: str) -> str:
    return _SECTION_TYPES.get(wrapper.types[0], f"{wrapper.types[0]}_{kind}")


_SECTION_TYPES = {
    "gemma3": "siglip_vision_model",
    "paligemma": "siglip_vision_model",
    "llava": "clip_vision_model",
    "llava_next": "clip_vision_model",
    "mistral3": "pixtral",
    "llama4": "llama4_vision_model",
    "idefics3": "idefics3_vision",
    "lfm2_vl": "siglip2_vision_model",
    "cohere2_vision": "siglip_vision_model",
    "internvl_chat": "intern_vit_6b",
    "minimax_m3_vl": "minimax_m3_vl_vision",
    "step3p7": "step3p5_vision",
    "aya_vision": "siglip_vision_model",
    "vipllava": "clip_vision_model",
    "lighton_ocr": "pixtral",
    "qianfan_ocr": "intern_vit_6b",
    "minicpmv": "siglip_vision_model",
    "minicpmo": "siglip_vision_model",
    "ernie4_5_vl_moe": "ernie4_5_vl_moe_vision",
    "minicpmv4_6": "minicpmv4_6_vision",
}
