"""Key-value heads of MPT, which a nested section describes."""

from __future__ import annotations

from melange_sky.errors import InputError
from melange_sky.models.fields import Fields, one_of, shown

_HEADS = ("multihead_attention", "multiquery_attention", "grouped_query_attention")


def mpt_kv_heads(section: Fields, heads: int) -> int:
    """Return the key-value heads that an `attn_config` describes."""
    kind = section.text("attn_type", _HEADS[0])
    if kind not in _HEADS:
        raise one_of(section, "attn_type", kind, _HEADS)
    window = section.get("sliding_window_size")
    if window not in (None, -1):
        raise InputError(
            f"{section.where}: 'sliding_window_size' ({shown(window)}) is not supported for mpt"
        )
    if kind == "multiquery_attention":
        return 1
    stated = section.maybe("kv_n_heads")
    if kind == _HEADS[2] and stated is None:
        raise InputError(f"{section.where}: no 'kv_n_heads': needed for '{kind}'")
    return stated or heads
