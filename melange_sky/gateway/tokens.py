"""How long a prompt is, in tokens: exact with the model's tokenizer, else learnt from replicas' counts.

Without a tokenizer, tokens = UTF-8 bytes ÷ bytes per token. The ratio starts at 4 (English text with
today's vocabularies of 100,000 and more) and follows the prompt counts that replicas report.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from melange_sky.errors import InputError
from melange_sky.gateway.client_request import ApiPath
from melange_sky.gateway.prompts import Prompt, prompt_parts

if TYPE_CHECKING:
    from melange_sky.gateway.client_request import ClientRequest

log = logging.getLogger(__name__)

START_BYTES_PER_TOKEN = 4.0
_LEARN = 0.02
_LEAST_TOKENS = 32
_THREAD_BYTES = 16 * 1024
_MOST_BYTES_FACTOR = (1.0, 12.0)


class PromptCount(NamedTuple):
    """Tokens of all prompts of a request, and of its longest one.

    `estimated_from_bytes` is 0 where the count is exact, or where a replica's count would not be of
    text alone.
    """

    tokens: int
    longest: int
    estimated_from_bytes: int


class TokenCounter:
    """Counts the prompt tokens of requests to one model. `tokenizer_path`: tokenizer.json or its folder."""

    def __init__(self, tokenizer_path: Path | None = None) -> None:
        """Load the tokenizer, if one is given. Raises InputError where it cannot be read."""
        self.bytes_per_token = START_BYTES_PER_TOKEN
        self._tokenizer: Any = None
        self._template: Callable[[dict[str, Any]], str] | None = None
        if tokenizer_path is not None:
            self._tokenizer = _load_tokenizer(tokenizer_path)
            self._template = _load_template(tokenizer_path)

    @property
    def exact(self) -> bool:
        """Whether a tokenizer counts."""
        return self._tokenizer is not None

    async def count(self, request: ClientRequest) -> PromptCount:
        """Return how long a request's prompts are."""
        prompt = prompt_parts(request)
        if self._tokenizer is None:
            return self._estimate(prompt)
        texts, marks = prompt.texts, prompt.marks
        if self._template is not None and request.endpoint is ApiPath.CHAT:
            try:
                texts, marks = [self._template(request.document)], 0
            except Exception as error:  # noqa: BLE001 -- the template is the model's own program
                log.debug("chat template failed: %s", type(error).__name__)
        if sum(map(len, texts)) < _THREAD_BYTES:
            counted = self._encode(texts)
        else:
            # The tokenizer lets go of the interpreter lock, so a long prompt delays nobody.
            loop = asyncio.get_running_loop()
            counted = await loop.run_in_executor(None, self._encode, texts)
        tokens = max(1, prompt.ids + marks + sum(counted))
        longest = max([*counted, prompt.longest_ids]) if prompt.several else tokens
        return PromptCount(tokens=tokens, longest=longest, estimated_from_bytes=0)

    def _estimate(self, prompt: Prompt) -> PromptCount:
        sizes = [len(t) if t.isascii() else len(_bytes(t)) for t in prompt.texts]
        size = sum(sizes)
        tokens = max(1, prompt.ids + prompt.marks + round(size / self.bytes_per_token))
        most = round(max(sizes, default=0) / self.bytes_per_token)
        return PromptCount(
            tokens=tokens,
            longest=max(1, most, prompt.longest_ids) if prompt.several else tokens,
            estimated_from_bytes=0 if prompt.seen else size,  # replicas' counts hold images, too
        )

    def _encode(self, texts: list[str]) -> list[int]:
        plain = self._template is None
        try:
            return [len(self._tokenizer.encode(t, add_special_tokens=plain)) for t in texts]
        except (TypeError, UnicodeError):  # half a character of two
            whole = [_bytes(t).decode("utf-8", "replace") for t in texts]
            return [len(self._tokenizer.encode(t, add_special_tokens=plain)) for t in whole]

    def learn(self, estimated_from_bytes: int, prompt_tokens: int) -> None:
        """Correct the ratio by what a replica counted."""
        if estimated_from_bytes <= 0 or prompt_tokens < _LEAST_TOKENS:
            return
        low, high = _MOST_BYTES_FACTOR
        seen = min(high, max(low, estimated_from_bytes / prompt_tokens))
        self.bytes_per_token += _LEARN * (seen - self.bytes_per_token)


def _bytes(text: str) -> bytes:
    """Return the text in UTF-8; half a character of two, as clients send that cut text, is kept."""
    return text.encode("utf-8", "surrogatepass")


def _load_tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise InputError(
            "--tokenizer needs the package 'tokenizers': pip install tokenizers; "
            "without the option prompts are estimated"
        ) from error
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{file}: no such file; --tokenizer takes a tokenizer.json or its folder")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{file}: is not a tokenizer.json of the tokenizers library") from error


def _load_template(path: Path) -> Callable[[dict[str, Any]], str] | None:
    """Return the model's chat template as a function of the request, None where it has none."""
    file = (path if path.is_dir() else path.parent) / "tokenizer_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        source = config.get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    if not isinstance(source, str):
        return None
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    try:
        # The same environment as in transformers, so that the same text comes out.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(source)
    except TemplateError:
        log.warning("%s: the chat template cannot be read; chat prompts are counted without", file)
        return None
    special = {
        key: value if isinstance(value, str) else value.get("content", "")
        for key, value in config.items()
        if key.endswith("_token") and isinstance(value, str | dict)
    }

    def apply(document: dict[str, Any]) -> str:
        return template.render(
            messages=document.get("messages"),
            tools=document.get("tools"),
            add_generation_prompt=True,
            **special,
        )

    return apply
