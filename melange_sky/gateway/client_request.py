"""What a request asks for: just enough of the OpenAI API to route it; the rest is the replica's.

The body is untrusted. It is parsed once to read sizes; what is sent on is the client's own bytes.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, NamedTuple

from melange_sky.gateway.documents import parsed

COMPLETION_DEFAULT_TOKENS = 16
"""`max_tokens` of a text completion that gives none, with OpenAI and the engines alike."""
_MOST_TOKENS = 1 << 31
_MODEL_SHOWN = 100
_ANTHROPIC = {401: "authentication_error", 404: "not_found_error", 503: "overloaded_error"}


class ApiPath(str, Enum):
    """The calls that go to a replica; the value is their path there.

    Which of them a replica has is its own matter: it says 404 in its own words.
    """

    CHAT = "/v1/chat/completions"
    TEXT = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    EMBEDDINGS = "/v1/embeddings"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"

    @property
    def generates(self) -> bool:
        """Whether the call makes a model write."""
        return self in _LENGTHS


_LENGTHS = {
    ApiPath.CHAT: ("max_completion_tokens", "max_tokens"),
    ApiPath.TEXT: ("max_tokens",),
    ApiPath.RESPONSES: ("max_output_tokens",),
    ApiPath.MESSAGES: ("max_tokens",),
}
_PROMPTS = {ApiPath.TEXT: "prompt", ApiPath.EMBEDDINGS: "input"}
_USAGE_ON_DEMAND = (ApiPath.CHAT, ApiPath.TEXT)


class Refusal(Exception):  # noqa: N818 -- an answer, not a failure of the gateway
    """An answer other than 200 that the gateway itself gives, in OpenAI's form.

    `plan` is the one whose replicas could not serve the request, empty where it never came to that.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s = retry_after_s
        self.plan = ""
        super().__init__(message)

    def body(self, *, anthropic: bool = False) -> bytes:
        """Return the JSON body, in OpenAI's form or with what Anthropic's clients read besides."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        elif anthropic:
            kind = _ANTHROPIC.get(self.status, kind if self.status < 500 else "api_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        document: dict[str, Any] = {"type": "error"} if anthropic else {}
        return json.dumps(document | {"error": error}).encode()


class ClientRequest(NamedTuple):
    """One parsed request.

    `max_tokens` None where none was given; `prompts` are answered at once, by `choices` answers each.
    `hide_usage` is True for a stream whose client did not speak of `stream_options`: the replica is
    then asked for token counts, which the client does not get to see.
    """

    endpoint: ApiPath
    model: str | None
    stream: bool
    max_tokens: int | None
    prompts: int
    choices: int
    hide_usage: bool
    document: dict[str, Any]
    body: bytes

    def upstream_body(self) -> bytes:
        """Return the body for the replica: the client's, with token counts asked for.

        The key is added to the client's own bytes, so that nothing else of it can change on the way.
        """
        if not self.hide_usage:
            return self.body
        end = self.body.rindex(b"}")
        return self.body[:end] + b',"stream_options":{"include_usage":true}}'


def parse_request(endpoint: ApiPath, body: bytes) -> ClientRequest:
    """Read a request body. Raises Refusal (400) where the gateway cannot make sense of it."""
    document = _document(body)
    options = document.get("stream_options")
    stream = document.get("stream") is True and endpoint.generates
    if options is not None and not isinstance(options, dict):
        raise _invalid("stream_options must be an object", "stream_options")
    return ClientRequest(
        endpoint=endpoint,
        model=_text(document, "model"),
        stream=stream,
        max_tokens=_max_tokens(endpoint, document),
        prompts=_prompts(endpoint, document),
        choices=max(_count(document, "n") or 1, _count(document, "best_of") or 1),
        hide_usage=stream and options is None and endpoint in _USAGE_ON_DEMAND,
        document=document,
        body=body,
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = parsed(body, _lenient)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the body is not JSON that can be read", "invalid_json") from error
    if not isinstance(document, dict):
        raise Refusal(400, "the body must be a JSON object", "invalid_json")
    return document


def _no_constant(_name: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant)


def _lenient(body: bytes) -> Any:
    return _JSON.decode(body.decode("utf-8"))


def _invalid(message: str, param: str) -> Refusal:
    return Refusal(400, message, "invalid_value", param=param)


def _text(document: dict[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is not None and not isinstance(value, str):
        raise _invalid(f"{key} must be a string", key)
    return value


def _count(document: dict[str, Any], key: str) -> int | None:
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST_TOKENS:
        raise _invalid(f"{key} must be a whole number of at least 0", key)
    return value


def _max_tokens(endpoint: ApiPath, document: dict[str, Any]) -> int | None:
    if not endpoint.generates:
        return 1
    given = [_count(document, name) for name in _LENGTHS[endpoint]]
    known = next((count for count in given if count is not None), None)
    return COMPLETION_DEFAULT_TOKENS if known is None and endpoint is ApiPath.TEXT else known


def _prompts(endpoint: ApiPath, document: dict[str, Any]) -> int:
    """Return how many prompts a request has: several texts, or several lists of token ids."""
    name = _PROMPTS.get(endpoint)
    prompt = None if name is None else document.get(name)
    if not isinstance(prompt, list):
        return 1
    return max(1, sum(isinstance(part, str | list) for part in prompt))


def shown(name: str) -> str:
    """Return a client's text shortened and without control characters, for a message.

    >>> shown("a" + chr(10) + "b")
    'a?b'
    """
    return re.sub(r"[^\x20-\x7e]", "?", name[:_MODEL_SHOWN])
