"""A config that wraps a language model: what stands where in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapper:
    """A kind of multimodal config.

    `text` names the section of the language model ("" where its fields stand at the top), `within` a
    section that holds all the others. `older_section` is what released files call `vision_section`. `text_type` is the language model's family where its section
    does not say it. `left_out` are sections that say nothing of sizes; `unloaded` those of parts that the
    checkpoint holds and engines do not load (what speaks). `optional_audio`: the class of a config that names no
    audio builds none, so that nothing is missing.
    """

    types: tuple[str, ...]
    architectures: tuple[str, ...]
    text: str = "text_config"
    within: str | None = None
    vision: str | None = None
    vision_section: str = "vision_config"
    older_section: str | None = None
    audio: str | None = None
    text_type: str | None = None
    text_type_by: tuple[str, tuple[tuple[str, str], ...]] | None = None
    left_out: tuple[str, ...] = ()
    unloaded: tuple[str, ...] = ()
    fixed: tuple[tuple[str, int], ...] = ()
    always: bool = False
    optional_audio: bool = False
