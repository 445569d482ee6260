"""Molmo: an OLMo or a Qwen2 whose config states the widths of two matrices at once."""

from __future__ import annotations

from melange_sky.models.fields import Fields
from melange_sky.models.reading.decoder import Decoder, read_decoder
from melange_sky.models.reading.family import Family


def read_molmo(fields: Fields, family: Family) -> Decoder:
    """Read the language model of Molmo; its added words have an embedding but no output."""
    width = fields.whole("intermediate_size")
    words = fields.maybe("embedding_size") or fields.whole("vocab_size")
    tied = fields.flag("weight_tying")
    changed = {"intermediate_size": width // 2, "vocab_size": words, "tie_word_embeddings": tied}
    plain = fields.changed(changed)
    decoder = read_decoder(plain, family)
    fields.read.update(("additional_vocab_size", "layer_norm_type", "norm_after"))
    return decoder
