"""The quantization section of a config: where it stands, and whose method it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from melange_sky.errors import InputError, did_you_mean
from melange_sky.models.fields import Fields, shown
from melange_sky.models.weights.formats import VALUE_BYTES
from melange_sky.models.weights.scheme import Scheme
from melange_sky.models.weights.section_parts import Section

_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")

SPELLINGS = {"compressed_tensors": "compressed-tensors", "auto-round": "inc", "auto_round": "inc"}
"""Names of methods that engines know under another one."""

_NOT_SERVED = "a method that no engine here serves from such a checkpoint"
UNSERVED = dict.fromkeys(
    (
        "aqlm",
        "bitnet",
        "eetq",
        "exl2",
        "exl3",
        "fp_quant",
        "gguf",
        "higgs",
        "hqq",
        "quanto",
        "quip",
        "sinq",
        "spqr",
        "vptq",
    ),
    _NOT_SERVED,
)
"""Methods that are known, and what is to be said of them."""


def read_scheme(config: Section, side_file: Section | None, where: str) -> Scheme:
    """Return how the weights of a config are kept.

    `side_file`: what its `hf_quant_config.json` holds, None where there is none. A section in the
    config comes before the side file, as engines take them. Raises InputError that names the field.
    """
    dtype = _dtype(config, where)
    found = _section(config, side_file, where)
    if found is None:
        return _plain(dtype)
    from melange_sky.models.weights.methods import READERS  # not wanted for plain weights

    name, section = found
    fields = Fields(section, f"{where}: {name}")
    method = _method(fields)
    reader = READERS.get(method)
    if not method and {"bits", "group_size"} <= set(map(str, section)):
        raise InputError(
            f"{where}: {name}: no 'quant_method', as in checkpoints for MLX, which no engine here serves"
        )
    if not method:
        raise InputError(f"{where}: {name}: no 'quant_method': it says how weights are kept")
    if reader is None and method in UNSERVED:
        raise InputError(f"{where}: {name}.quant_method: '{method}' is {UNSERVED[method]}")
    if reader is None:
        known = sorted(READERS)
        raise InputError(
            f"{where}: {name}.quant_method: unknown quantization '{shown(method)}'{did_you_mean(method, known)}; "
            f"known: {', '.join(known)}"
        )
    scheme = reader(fields, config, method, dtype)
    nested = name.partition(".")[0] in _NESTED
    if nested and scheme.method.startswith("modelopt"):
        return dataclasses.replace(scheme, kv_cache=None)  # engines look for it on top alone
    return scheme


def _dtype(config: Section, where: str) -> str:
    sections = [config, *(config[key] for key in _NESTED if isinstance(config.get(key), Mapping))]
    for section in sections:
        for key in ("torch_dtype", "dtype"):
            value = section.get(key)
            if value is not None:
                if not isinstance(value, str):
                    raise InputError(f"{where}: '{key}' must be a text such as bfloat16")
                text = value.removeprefix("torch.")
                if text not in VALUE_BYTES:
                    raise InputError(
                        f"{where}: unknown dtype '{shown(text)}'{did_you_mean(text, VALUE_BYTES)}; "
                        f"known: {', '.join(sorted(VALUE_BYTES))}"
                    )
                return text
    return "bfloat16"


def _plain(dtype: str) -> Scheme:
    return Scheme(dtype=dtype, value_bytes=VALUE_BYTES[dtype])


def _section(config: Section, side_file: Section | None, where: str) -> tuple[str, Section] | None:
    """Return the section that engines take, and its name."""
    places: list[tuple[str, object]] = [
        (key, config.get(key)) for key in ("quantization_config", "compression_config")
    ]
    if places[0][1] is None and side_file is not None:
        return "hf_quant_config.json", side_file
    for nested in _NESTED:
        section = config.get(nested)
        if isinstance(section, Mapping):
            places += [
                (f"{nested}.{key}", section.get(key))
                for key in ("quantization_config", "compression_config")
            ]
    for name, value in places:
        if value is None or value == {}:
            continue
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: '{name}' must be a mapping")
        return name, value
    return None


def _method(fields: Fields) -> str:
    """Return the method of a section; ModelOpt's may stand without one, or in a section of its own."""
    method = fields.text("quant_method").lower()
    method = SPELLINGS.get(method, method)
    if method:
        return method
    nested = fields.raw.get("quantization")
    algorithm = fields.raw.get("quant_algo") or (
        nested.get("quant_algo") if isinstance(nested, Mapping) else None
    )
    return "modelopt" if algorithm is not None else ""
