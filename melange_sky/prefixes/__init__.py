"""What prompts share, from what traces or figures tell of them; and which cache finds how much of it."""

from melange_sky.prefixes.distances import endless_tokens, reuse_of
from melange_sky.prefixes.hashes import paths_of_hashes, tokens_of_an_id
from melange_sky.prefixes.sampled import sampled_paths
from melange_sky.prefixes.sessions import paths_of_sessions

__all__ = [
    "endless_tokens",
    "paths_of_hashes",
    "paths_of_sessions",
    "reuse_of",
    "sampled_paths",
    "tokens_of_an_id",
]
