"""The texts, token ids and marks of which a request's prompt consists, whatever the call."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from melange_sky.gateway.client_request import ApiPath

if TYPE_CHECKING:
    from melange_sky.gateway.client_request import ClientRequest

MESSAGE_TOKENS = 4
"""Role, start and end marks of a chat message, about equal in the usual templates."""
_MOST_NESTED = 4


@dataclass(slots=True, kw_only=True)
class Prompt:
    """What is to be counted: texts, how many token ids, and tokens of the marks between.

    `several`: the parts are prompts of their own. `seen`: there are parts that are no text, which are
    not counted.
    """

    texts: list[str] = field(default_factory=list)
    ids: int = 0
    longest_ids: int = 0
    marks: int = 0
    several: bool = False
    seen: bool = False


def prompt_parts(request: ClientRequest) -> Prompt:
    """Return the parts of a request's prompt; what is of no known form counts for nothing."""
    document, endpoint = request.document, request.endpoint
    if endpoint in (ApiPath.TEXT, ApiPath.EMBEDDINGS):
        name = "prompt" if endpoint is ApiPath.TEXT else "input"
        return _plain(document.get(name), request.prompts > 1)
    if endpoint is ApiPath.DETOKENIZE:
        return _plain(document.get("tokens"), several=False)
    if endpoint is ApiPath.TOKENIZE and "prompt" in document:
        return _plain(document["prompt"], several=False)
    prompt = Prompt()
    given = document.get("input" if endpoint is ApiPath.RESPONSES else "messages")
    for key in ("instructions", "system"):
        _add(prompt, document.get(key))
    if isinstance(given, str):
        prompt.texts.append(given)
    for message in given if isinstance(given, list) else ():
        prompt.marks += MESSAGE_TOKENS
        if isinstance(message, dict):
            _message(prompt, message)
    if document.get("tools"):
        prompt.texts.append(_json(document["tools"]))
    return prompt


def opening(request: ClientRequest, characters: int, *, until_user: bool = False) -> str:
    """Return how a request's prompt begins, tools and instructions first, as one text for comparison.

    `until_user`: up to the first message of the user, which all turns of a chat have in common.
    """
    document = request.document
    parts = [request.model or "", _salt(document)]
    if document.get("tools"):
        parts.append(_json(document["tools"]))
    for key in ("instructions", "system"):
        _open(parts, document.get(key))
    given = document.get(
        {ApiPath.RESPONSES: "input", ApiPath.TEXT: "prompt"}.get(request.endpoint, "messages")
    )
    if isinstance(given, str):
        parts.append(given)
    elif isinstance(given, list):
        _open_list(parts, given, characters, until_user)
    return "\x1f".join(parts)[:characters]


def _salt(document: dict[str, Any]) -> str:
    salt = document.get("cache_salt")
    return salt if isinstance(salt, str) else ""


def _open_list(parts: list[str], given: list[Any], characters: int, until_user: bool) -> None:
    if given and isinstance(given[0], int):
        parts.append(str(given[:characters]))
        return
    length = 0
    for message in given:
        if not isinstance(message, dict):
            parts.append(str(message)[:characters])
        else:
            before = len(parts)
            parts.append(str(message.get("role")))
            for key in ("content", "tool_calls", "output", "arguments"):
                _open(parts, message.get(key))
            length += sum(map(len, parts[before:]))
            if until_user and message.get("role") == "user":
                return
        if length >= characters:
            return


def _open(parts: list[str], content: Any) -> None:
    """Add what a content says, images and the like as they are sent."""
    if isinstance(content, str):
        parts.append(content)
    elif content is not None:
        parts.append(_json(content))


def _message(prompt: Prompt, message: dict[str, Any]) -> None:
    for key in ("content", "output", "arguments"):
        _add(prompt, message.get(key))
    if message.get("tool_calls"):
        prompt.texts.append(_json(message["tool_calls"]))


def _add(prompt: Prompt, content: Any, depth: int = 0) -> None:
    """Add a text, or a list of parts that are texts, results of tools, or no text."""
    if isinstance(content, str):
        prompt.texts.append(content)
        return
    for part in content if isinstance(content, list) and depth < _MOST_NESTED else ():
        if not isinstance(part, dict):
            continue
        text, inner = part.get("text"), part.get("content")
        if isinstance(text, str):
            prompt.texts.append(text)
        elif isinstance(inner, str | list):
            _add(prompt, inner, depth + 1)
        elif part.get("type") == "tool_use":
            prompt.texts.append(_json(part.get("input")))
        else:
            prompt.seen = True


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return ""


def _plain(prompt: Any, several: bool) -> Prompt:
    """A prompt is a text, token ids, or a list of either."""
    if isinstance(prompt, str):
        return Prompt(texts=[prompt])
    if not isinstance(prompt, list):
        return Prompt()
    lists = [len(part) for part in prompt if isinstance(part, list)]
    single = sum(isinstance(part, int) for part in prompt)
    return Prompt(
        texts=[part for part in prompt if isinstance(part, str)],
        ids=single + sum(lists),
        longest_ids=max([single, *lists]),
        several=several,
    )
