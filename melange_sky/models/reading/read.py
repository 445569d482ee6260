"""From a `config.json` to the list of layers of its model, or one line that says why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, shown
from melange_sky.models.layers import Layer, LayerList
from melange_sky.models.reading import registry, wrappers
from melange_sky.models.reading.closed_world import unread, unread_within
from melange_sky.models.reading.context import context_tokens
from melange_sky.models.reading.defaults import class_defaults, stated_at_top
from melange_sky.models.reading.encoders import only_text, read_towers
from melange_sky.models.reading.family import Family
from melange_sky.models.reading.refusals import check_size, what_it_is
from melange_sky.models.reading.tying import tie_as_outside
from melange_sky.models.reading.wrapper import Wrapper

ANSWERED = frozenset({"quantization_config", "compression_config", "architectures", "model_type"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """Which family and wrapper a config belongs to."""

    family: Family
    wrapper: Wrapper | None
    architecture: str
    model_type: str
    guessed: bool = False
    missing: str | None = None


def read_layers(config: object, where: str = "config.json", *, measured: bool = False) -> LayerList:
    """Return the layers of the model that `config` describes.

    `measured`: the tensors of the checkpoint are at hand and will be held against the result, so that
    an architecture that is not supported is read as a plain decoder, and such a field warns instead of
    refusing; the result is doubtful then. Raises InputError, always one line, that names the field or
    says what the config is.
    """
    if not isinstance(config, Mapping):
        raise InputError(
            f"{where}: not a JSON object; give the config.json of a Hugging Face model"
        )
    try:
        layers = _read(config, where, measured)
    except RecursionError as error:
        raise InputError(f"{where}: nested too deeply to be a model's config") from error
    check_size(config, layers.parameters, where)
    return layers


def _read(config: Mapping[str, Any], where: str, measured: bool) -> LayerList:
    chosen = _choose(config, where, measured)
    outer = _within(config, chosen.wrapper, where)
    text = _text_fields(outer, chosen, where)
    decoder = registry.reader_of(chosen.family)(text, chosen.family)
    contradicted = None
    if chosen.wrapper is not None:
        own_head = chosen.family.own_head
        contradicted = tie_as_outside(decoder, outer, text, chosen.model_type, own_head)
    context = context_tokens(text, outer)
    built, tower_warnings = read_towers(outer, chosen.wrapper, decoder.core.hidden)
    notes = [*decoder.assumptions, *(note for note in (contradicted,) if note)]
    unloaded = _unloaded(config, chosen.wrapper)
    if unloaded:
        notes.append(f"in the files but not loaded, so not counted: {', '.join(unloaded)}")
    if text.assumed:
        notes.append(f"class defaults of transformers for {', '.join(sorted(text.assumed)[:12])}")
    if chosen.missing is not None:
        tower_warnings.append(only_text(chosen.missing))
    closed, unsure = _closed(text, outer, chosen, measured)
    told = dict.fromkeys((*text.told, *outer.told))
    warnings = [*_unnamed(config, chosen), *told, *tower_warnings, *closed]
    return LayerList(
        architecture=chosen.architecture,
        model_type=chosen.model_type,
        hidden_size=decoder.core.hidden,
        vocabulary=decoder.core.vocabulary,
        layers=tuple(unbounded(layer, context) for layer in decoder.layers),
        outside=tuple(decoder.outside),
        towers=built,
        extra_heads=tuple(decoder.extra_heads),
        prefix=_prefix(chosen),
        tied=decoder.tied,
        context_tokens=context,
        assumptions=tuple(notes),
        unloaded=unloaded,
        warnings=tuple(warnings),
        doubtful=unsure or chosen.guessed,
    )


def _unloaded(config: Mapping[str, Any], wrapper: Wrapper | None) -> tuple[str, ...]:
    names = () if wrapper is None else wrapper.unloaded
    return tuple(name for name in names if config.get(name))


def _brings_code(config: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint's own code defines its config."""
    mapped = config.get("auto_map")
    return isinstance(mapped, Mapping) and "AutoConfig" in mapped


def _unnamed(config: Mapping[str, Any], chosen: _Chosen) -> Iterator[str]:
    """Yield what an engine would do with a config that does not say what it is."""
    if "architectures" in config and not config["architectures"]:
        yield (
            f"'architectures' is empty: read as {shown(chosen.architecture, 60)}, but engines serve such a "
            "checkpoint for embeddings, not for text"
        )
    if not config.get("model_type"):
        yield "no 'model_type': engines refuse a checkpoint without one"


def unbounded(layer: Layer, context: int) -> Layer:
    """Return a layer whose window is never shorter than the context as one with full attention."""
    attention = layer.attention
    if attention.kind != "sliding" or attention.window is None or attention.window < context:
        return layer
    full = dataclasses.replace(
        attention,
        kind="full",
        kv_values=attention.kv_values + attention.window_values,
        window_values=0,
        window=None,
    )
    return dataclasses.replace(layer, attention=full)


def _choose(config: Mapping[str, Any], where: str, measured: bool) -> _Chosen:
    """Return the family of a config: by its architecture, which engines go by, else by its type."""
    name = _architecture(config, where)
    model_type = _model_type(config, where)
    by_word = wrappers.BY_ARCHITECTURE.get(name)
    wrapper = by_word or (wrappers.BY_TYPE.get(model_type) if not name else None)
    if wrapper is not None and _has_sections(config, wrapper):
        return _Chosen(
            family=_text_family(config, wrapper, where),
            wrapper=wrapper,
            architecture=name or wrapper.architectures[0],
            model_type=model_type,
        )
    if name not in registry.BY_ARCHITECTURE or config.get("is_encoder_decoder") is True:
        kind = what_it_is(config, {*registry.BY_ARCHITECTURE, *wrappers.BY_ARCHITECTURE})
        if kind is not None:
            raise InputError(f"{where}: this is {kind}")
    family = registry.BY_ARCHITECTURE.get(name)
    by_type = registry.BY_TYPE.get(model_type)
    if family is not None and by_type is not None and name in by_type.architectures:
        family = by_type  # one architecture of several families: the type tells
    if family is None and not name:
        family = by_type or (registry.BY_TYPE["llama"] if not model_type else None)
    guessed = family is None and measured and "text_config" not in config
    if guessed:
        family = registry.plain_family(config)
    if family is None:
        raise InputError(f"{where}: {_unknown(name, model_type, config)}")
    if family.reader == "decoder" and by_type is not None and by_type is not family and not name:
        family = by_type
    return _Chosen(
        family=family,
        wrapper=None,
        architecture=name or (family.architectures[0] if family.architectures else ""),
        model_type=model_type or family.types[0],
        guessed=guessed,
        missing=wrapper.vision_section
        if wrapper is not None and model_type in wrapper.types
        else None,
    )


def _model_type(config: Mapping[str, Any], where: str) -> str:
    """Return the stated type, empty where there is none."""
    stated = config.get("model_type")
    if stated is not None and not isinstance(stated, str):
        raise InputError(f"{where}: 'model_type' must be text")
    return stated or ""


def _architecture(config: Mapping[str, Any], where: str) -> str:
    """Return the first architecture that is supported, as engines choose, else the first; "" for none."""
    names = config.get("architectures")
    if names is None or names == []:
        return ""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: 'architectures' must be a list of strings")
    known = (n for n in names if n in registry.BY_ARCHITECTURE or n in wrappers.BY_ARCHITECTURE)
    return str(next(known, names[0]))


def _unknown(name: str, model_type: str, config: Mapping[str, Any]) -> str:
    told = f"architecture '{shown(name, 60)}'" if name else f"model type '{shown(model_type, 60)}'"
    brought = "; its own code ('auto_map') is never run here" if _brings_code(config) else ""
    return f"{told} is not a supported model, so it cannot be sized{brought}"


def _has_sections(config: Mapping[str, Any], wrapper: Wrapper) -> bool:
    if wrapper.always:
        return True
    if wrapper.within is not None:
        return isinstance(config.get(wrapper.within), Mapping)
    keys = (wrapper.text.rstrip("|"), wrapper.vision_section)
    return any(isinstance(config.get(key), Mapping) for key in keys)


def _within(config: Mapping[str, Any], wrapper: Wrapper | None, where: str) -> Fields:
    if wrapper is None or wrapper.within is None:
        return Fields(config, where)
    section = config.get(wrapper.within)
    assert isinstance(section, Mapping)
    return Fields(section, f"{where}: {wrapper.within}")


def _text_section(outer: Mapping[str, Any], wrapper: Wrapper) -> Mapping[str, Any] | None:
    section = outer.get(wrapper.text.rstrip("|"))
    return section if isinstance(section, Mapping) else None


def _text_family(config: Mapping[str, Any], wrapper: Wrapper, where: str) -> Family:
    outer = config[wrapper.within] if wrapper.within else config
    section = _text_section(outer, wrapper)
    stated = section.get("model_type") if section is not None else None
    name = _architecture(section, where) if section is not None else ""
    if isinstance(stated, str) and stated and stated in registry.BY_TYPE:
        return registry.BY_TYPE[stated]
    if name and name in registry.BY_ARCHITECTURE:
        return registry.BY_ARCHITECTURE[name]
    own = wrapper.text_type or _text_type_by_field(outer, wrapper, where)
    if own is not None and (not isinstance(stated, str) or not stated or _is_own(stated, wrapper)):
        return registry.BY_TYPE[own]
    raise InputError(
        f"{where}: the language model in '{wrapper.text.rstrip('|')}' is a '{shown(stated or name)}', which is "
        "not among the models that are read"
    )


def _text_type_by_field(outer: Mapping[str, Any], wrapper: Wrapper, where: str) -> str | None:
    """Return the family of a flat language model that one field decides, such as its version."""
    if wrapper.text_type_by is None:
        return None
    key, families = wrapper.text_type_by
    stated = str(outer.get(key, ""))[:20]
    known = dict(families)
    if stated not in known:
        raise InputError(
            f"{where}: '{key}' holds '{shown(stated)}', which is not supported; known: {', '.join(known)}"
        )
    return known[stated]


def _is_own(stated: str, wrapper: Wrapper) -> bool:
    return any(stated.startswith(name) for name in wrapper.types)


def _text_fields(outer: Fields, chosen: _Chosen, where: str) -> Fields:
    if chosen.wrapper is None:
        return stated_at_top(outer.raw, where, chosen.model_type)
    section = _text_section(outer.raw, chosen.wrapper)
    if section is None and not chosen.wrapper.text.endswith("|"):
        raise InputError(f"{outer.where}: '{chosen.wrapper.text}' must be a mapping")
    if section is None:
        flat = {
            key: value
            for key, value in outer.raw.items()
            if key not in (chosen.wrapper.vision_section, "audio_config")
        }
        return stated_at_top(flat, outer.where, chosen.family.types[0])
    stated = section.get("model_type")
    kind = stated if isinstance(stated, str) and stated else chosen.wrapper.text_type or ""
    return Fields(
        section, f"{outer.where}: {chosen.wrapper.text.rstrip('|')}", class_defaults(kind)
    )


def _closed(text: Fields, outer: Fields, chosen: _Chosen, measured: bool) -> tuple[list[str], bool]:
    """Refuse fields that were not read where they may change the structure; tell of the others.

    Returns warnings, and whether any of them is of the structure.
    """
    passed = {*ANSWERED, *chosen.family.read_only}
    passed |= {key for key, word in chosen.family.words if text.raw.get(key) == word}
    if chosen.wrapper is not None and "|" in chosen.wrapper.text:
        passed |= outer.read
    found = unread(text, passed)
    if chosen.wrapper is not None and outer.raw is not text.raw and "|" not in chosen.wrapper.text:
        found += unread(outer, {*passed, *text.read})
    if found.structural and not measured:
        names = ", ".join(f"'{name}'" for name in found.structural[:4])
        raise InputError(
            f"{text.where}: {names} may change the model's structure and is not supported "
            f"for {shown(chosen.model_type or chosen.architecture, 60)}"
        )
    section = "" if chosen.wrapper is None else chosen.wrapper.text.rstrip("|")
    within = list(dict.fromkeys([*unread_within(text), *unread_within(outer, section)]))
    warnings = []
    if chosen.guessed:
        warnings.append(
            f"{shown(chosen.architecture, 60)} is not supported: read as a plain decoder, which the bytes of its files bear out"
        )
    if found.structural:
        warnings.append(f"unsupported fields: {', '.join(found.structural[:8])}")
    if found.switched:
        warnings.append(
            f"fields that may change the structure and are not read: {', '.join(found.switched[:8])}"
        )
    if within:
        warnings.append(
            f"fields of sections that may change the structure and are not read: {', '.join(within[:8])}"
        )
    if found.other:
        warnings.append(f"unknown fields, assumed to change no size: {', '.join(found.other[:8])}")
    return warnings, bool(found.structural or found.switched or within)


def _prefix(chosen: _Chosen) -> str:
    if chosen.wrapper is not None and chosen.family.prefix == "model.layers.{i}.":
        return "model.language_model.layers.{i}."
    return chosen.family.prefix
