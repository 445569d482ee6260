"""MPT as its makers' code builds it: heads and feed-forward that nested sections describe."""

from __future__ import annotations

import dataclasses

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, one_of, shown
from melange_sky.models.layers import Matrix
from melange_sky.models.reading.decoder import Decoder, read_decoder
from melange_sky.models.reading.family import Family

_GATED = {"mptmlp": False, "mptglu": True}


def read_mpt(fields: Fields, family: Family) -> Decoder:
    """Read a decoder of MosaicML; raise InputError for a form that its code has and that is not read."""
    gated = _is_gated(fields)
    if fields.raw.get("no_bias") is False:
        raise InputError(f"{fields.where}: 'no_bias' is false, which is not supported for mpt")
    decoder = read_decoder(fields, dataclasses.replace(family, gated=gated))
    core = decoder.core
    section = fields.section("attn_config")
    alibi = section is None or section.flag("alibi", True)
    if fields.flag("learned_pos_emb", True) and not alibi and not _rotary(section):
        decoder.outside.append(
            Matrix(
                name="transformer.wpe",
                part="embedding",
                outputs=fields.whole("max_seq_len", 2048),
                inputs=core.hidden,
                linear=False,
            )
        )
    _tell_what_transformers_ignores(fields, decoder, gated)
    return decoder


def _is_gated(fields: Fields) -> bool:
    section = fields.section("ffn_config")
    if section is None:
        return False
    kind = section.text("ffn_type", "mptmlp")
    if kind not in _GATED:
        raise one_of(section, "ffn_type", kind, tuple(_GATED))
    width = section.maybe("ffn_hidden_size")
    if width is not None:
        raise InputError(
            f"{section.where}: 'ffn_hidden_size' ({shown(width)}) is not supported for mpt"
        )
    return _GATED[kind]


def _rotary(section: Fields | None) -> bool:
    return section is not None and section.flag("rope")


def _tell_what_transformers_ignores(fields: Fields, decoder: Decoder, gated: bool) -> None:
    """Engines that run MPT through `transformers` build all heads alike and a width of four times the model's."""
    core = decoder.core
    if core.kv_heads != core.heads or gated or (fields.maybe("expansion_ratio") or 4) != 4:
        fields.told.append(
            "key-value heads, gate and 'expansion_ratio' are read as the makers' code builds them; the class of "
            "transformers ignores them, and engines that use it cannot load such a checkpoint"
        )
