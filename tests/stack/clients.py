"""Calls of the clients that people use, against a gateway: run by the clients' own interpreter.

`python clients.py URL KEY MODEL` prints a JSON object of what each call brought.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

ASK = [{"role": "user", "content": "Say something."}]


def openai_calls(url: str, key: str, model: str) -> dict[str, Callable[[], Any]]:
    """The openai package."""
    import openai

    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)

    def stream() -> int:
        chunks = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=8, stream=True
        )
        return sum(bool(c.choices and c.choices[0].delta.content) for c in chunks)

    def counted_stream() -> int:
        options = {"include_usage": True}
        chunks = client.chat.completions.create(
            model=model, messages=ASK, max_tokens=8, stream=True, stream_options=options
        )
        return [c.usage.completion_tokens for c in chunks if c.usage][-1]

    def responses_stream() -> list[str]:
        events = client.responses.create(
            model=model, input="Say something.", max_output_tokens=8, stream=True
        )
        return [event.type for event in events][-1:]

    def embeddings() -> str:
        try:
            client.embeddings.create(model=model, input="x")
        except openai.NotFoundError as error:
            return f"404: {error.body}"
        return "served"

    def unknown() -> str:
        try:
            client.chat.completions.create(model="no/such", messages=ASK)
        except openai.NotFoundError as error:
            return str(error.code)
        return "served"

    def several() -> int:
        prompts = ["One.", "Two.", "Three."]
        return len(client.completions.create(model=model, prompt=prompts, max_tokens=4).choices)

    return {
        "chat": lambda: (
            client.chat.completions.create(
                model=model, messages=ASK, max_tokens=8
            ).usage.completion_tokens
        ),
        "chat stream": stream,
        "chat stream counted": counted_stream,
        "text": lambda: (
            client.completions.create(model=model, prompt="Say", max_tokens=8).usage.prompt_tokens
        ),
        "batch": several,
        "responses": lambda: (
            client.responses.create(
                model=model, input="Say something.", max_output_tokens=8
            ).usage.output_tokens
        ),
        "responses stream": responses_stream,
        "models": lambda: [m.id for m in client.models.list()],
        "model": lambda: client.models.retrieve(model).id,
        "embeddings": embeddings,
        "unknown model": unknown,
    }


def litellm_calls(url: str, key: str, model: str) -> dict[str, Callable[[], Any]]:
    """The litellm package."""
    import litellm

    how = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": key}

    def stream() -> int:
        chunks = litellm.completion(**how, messages=ASK, max_tokens=8, stream=True)
        return sum(bool(c.choices and c.choices[0].delta.content) for c in chunks)

    return {
        "litellm": lambda: (
            litellm.completion(**how, messages=ASK, max_tokens=8).usage.completion_tokens
        ),
        "litellm stream": stream,
    }


def langchain_calls(url: str, key: str, model: str) -> dict[str, Callable[[], Any]]:
    """The langchain-openai package."""
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model=model, base_url=f"{url}/v1", api_key=key, max_tokens=8, max_retries=0)
    return {
        "langchain": lambda: chat.invoke("Say something.").usage_metadata["output_tokens"],
        "langchain stream": lambda: sum(bool(c.content) for c in chat.stream("Say something.")),
    }


def anthropic_calls(url: str, key: str, model: str) -> dict[str, Callable[[], Any]]:
    """The anthropic package."""
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)

    def stream() -> int:
        with client.messages.stream(model=model, messages=ASK, max_tokens=8) as events:
            return len(list(events.text_stream))

    return {
        "anthropic": lambda: (
            client.messages.create(model=model, messages=ASK, max_tokens=8).usage.output_tokens
        ),
        "anthropic stream": stream,
    }


def main() -> None:
    """Make all calls; a call that fails is told as text."""
    url, key, model = sys.argv[1:]
    brought: dict[str, Any] = {}
    for family in (openai_calls, litellm_calls, langchain_calls, anthropic_calls):
        for name, call in family(url, key, model).items():
            try:
                brought[name] = call()
            except Exception as error:  # noqa: BLE001 -- told to the test
                brought[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(brought))


if __name__ == "__main__":
    main()
