"""A prompt as hashes of its blocks, each of the prompt's beginning up to its end: what prompts share, without a word.

The hashes are salted anew in every process, only compared with each other in memory, and never written.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from melange_sky.gateway.prompts import opening
from melange_sky.reuse.counted import HASH_BITS, SeenPrompt

if TYPE_CHECKING:
    from melange_sky.gateway.client_request import ClientRequest

BLOCK_BYTES = 256
MOST_BYTES = 1 << 20


def seen_prompt(
    request: ClientRequest, session: int, input_tokens: int, salt: bytes
) -> SeenPrompt | None:
    """Return what is counted of a prompt of so many tokens; None where it is no single one."""
    if request.prompts > 1 or not request.endpoint.generates:
        return None
    text = opening(request, MOST_BYTES).encode("utf-8", "surrogatepass")
    if not text:
        return None
    hasher = hashlib.blake2b(key=salt, digest_size=8)
    blocks = []
    for end in range(BLOCK_BYTES, len(text) + 1, BLOCK_BYTES):
        hasher.update(text[end - BLOCK_BYTES : end])
        blocks.append(int.from_bytes(hasher.copy().digest(), "big") >> (64 - HASH_BITS))
    block_tokens = max(1e-9, input_tokens * BLOCK_BYTES / len(text))
    return SeenPrompt(session=session, blocks=blocks, block_tokens=block_tokens)
