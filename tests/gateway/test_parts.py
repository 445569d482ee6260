"""The gateway's parts by themselves: requests read, streams filtered, tokens counted, keys compared."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melange_sky.engines import EngineChoice
from melange_sky.errors import InputError
from melange_sky.gateway import Keys, Secret, Settings
from melange_sky.gateway.backend import Backend, Probe, parse_backend
from melange_sky.gateway.client_request import ApiPath, ClientRequest, Refusal, parse_request
from melange_sky.gateway.outliers import Ejection, Outcomes, is_outlier
from melange_sky.gateway.seating import served_names
from melange_sky.gateway.stream import EventStream
from melange_sky.gateway.tokens import TokenCounter
from melange_sky.streams import event_data, split_events
from tests.factories import make_model_plan


def ask(endpoint: ApiPath = ApiPath.TEXT, **body: object) -> ClientRequest:
    return parse_request(endpoint, json.dumps(body).encode())


def test_the_body_sent_on_is_the_clients_own_plus_one_key() -> None:
    text = b' {"model": "m" , "stream":true, "n": 1, "odd": "\\u00e9}"} \n'
    sent = parse_request(ApiPath.CHAT, text).upstream_body()
    assert sent.startswith(b' {"model": "m" , "stream":true, "n": 1, "odd": "\\u00e9}"')
    assert json.loads(sent) == json.loads(text) | {"stream_options": {"include_usage": True}}
    for own in (b'{"stream":false}', b'{"stream":true,"stream_options":{}}', b"{}"):
        assert parse_request(ApiPath.CHAT, own).upstream_body() == own


def test_max_tokens_in_all_its_forms() -> None:
    assert ask(prompt="x").max_tokens == 16
    assert ask(prompt="x", max_tokens=5).max_tokens == 5
    assert ask(ApiPath.CHAT).max_tokens is None
    assert ask(ApiPath.CHAT, max_tokens=5, max_completion_tokens=7).max_tokens == 7
    assert ask(ApiPath.CHAT, max_tokens=0, n=3).choices == 3


@given(st.binary(max_size=200))
def test_no_body_breaks_the_parser(body: bytes) -> None:
    try:
        parse_request(ApiPath.CHAT, body)
    except Refusal as refusal:
        assert refusal.status == 400
        assert json.loads(refusal.body())["error"]["type"] == "invalid_request_error"


EVENTS = [
    b'data: {"choices": [{"delta": {"content": "a\\n\\n\\"usage\\": {"}}]}\n\n',
    b'data: {"choices": [{"delta": {"content": "b"}}], "usage": null}\n\n',
    b": a comment\n\n",
    b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}\n\n',
    b"data: [DONE]\n\n",
]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 300), max_size=12))
def test_a_stream_cut_anywhere_passes_whole_less_the_count(cuts: list[int]) -> None:
    text = b"".join(EVENTS)
    edges = sorted({0, len(text), *(min(c, len(text)) for c in cuts)})
    stream = EventStream(hide_usage=True)
    out = b"".join(stream.feed(text[a:b]) for a, b in itertools.pairwise(edges))
    out += stream.end()
    assert out == b"".join(EVENTS[:3] + EVENTS[4:])
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (7, 2)


def test_counts_that_the_client_asked_for_pass_and_are_read() -> None:
    stream = EventStream(hide_usage=False)
    assert b"".join(map(stream.feed, EVENTS)) == b"".join(EVENTS)
    assert stream.usage.completion_tokens == 2


LINE_ENDS = [b"\n", b"\r\n", b"\r"]


@pytest.mark.parametrize("end", LINE_ENDS)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 400), max_size=12))
def test_every_valid_form_passes_whole_less_the_count(end: bytes, cuts: list[int]) -> None:
    lines = b"".join(
        [
            b"\xef\xbb\xbf: hello\n\n",
            b"event: message\nid: 1\nretry: 5\ndata:" + EVENTS[0][5:],
            b'data: {"choices": [\ndata: {"text": "", "index": 0}]}\n\n',
            b'data: {\ndata: "choices": [], "usage":\ndata: {"prompt_tokens": 7,\ndata: "completion_tokens": 2}}\n\n',
            b"data:[DONE]\n\n",
        ]
    )
    text = lines.replace(b"\n", end)
    edges = sorted({0, len(text), *(min(c, len(text)) for c in cuts)})
    stream = EventStream(hide_usage=True)
    out = b"".join(stream.feed(text[a:b]) for a, b in itertools.pairwise(edges)) + stream.end()
    assert out.count(b"usage") == 1, "the word in the text stays, the count goes"
    assert [event_data(e) for e in split_events(out) if event_data(e)] == [
        EVENTS[0][6:].strip(),
        b'{"choices": [\n{"text": "", "index": 0}]}',
        b"[DONE]",
    ]
    assert (stream.usage.prompt_tokens, stream.usage.completion_tokens) == (7, 2)
    assert stream.outputs == 1, "an empty chunk is no token"


def test_a_stream_without_events_is_not_held_back_for_ever() -> None:
    endless = EventStream(hide_usage=True)
    assert (
        b"".join(endless.feed(b"x" * 100_000) for _ in range(5)) + endless.end() == b"x" * 500_000
    )


def count(counter: TokenCounter, request: ClientRequest) -> int:
    return asyncio.run(counter.count(request)).tokens


def test_estimates_follow_what_replicas_count() -> None:
    counter = TokenCounter()
    text = ask(prompt="abcd" * 100)
    assert count(counter, text) == 100
    for _ in range(400):
        counter.learn(400, 200)
    assert count(counter, text) == pytest.approx(200, abs=2)
    counter.learn(400, 3)  # too short to tell anything
    assert count(counter, text) == pytest.approx(200, abs=2)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2], [3]]}, 3),
        ({"prompt": ["abcd" * 4, "abcd"]}, 5),
        ({"prompt": None}, 1),
        ({"prompt": {"odd": 1}}, 1),
        ({"prompt": "é" * 10}, 5),
    ],
)
def test_every_form_of_prompt_is_counted(body: dict[str, object], tokens: int) -> None:
    assert count(TokenCounter(), ask(**body)) == tokens


def test_chat_parts_tools_and_nonsense_are_counted() -> None:
    messages: list[object] = [
        {"role": "system", "content": "abcd" * 10},
        {
            "role": "user",
            "content": [{"type": "text", "text": "abcd" * 5}, {"type": "image_url"}, 3],
        },
        "nonsense",
        {"role": "assistant", "content": None, "tool_calls": [{"id": "abcd"}]},
    ]
    assert 31 < count(TokenCounter(), ask(ApiPath.CHAT, messages=messages)) < 45
    assert count(TokenCounter(), ask(ApiPath.CHAT, messages="no")) == 1


def write_tokenizer(folder: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<unk>": 0, "<s>": 1} | {f"w{n}": n + 2 for n in range(50)}
    model = tokenizers.models.WordLevel(words, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def test_a_tokenizer_counts_exactly_template_included(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    text = ask(prompt="w1 w2 w3")
    plain = TokenCounter(tmp_path / "tokenizer.json")
    assert (plain.exact, count(plain, text)) == (True, 4)
    assert count(plain, ask(prompt="w1 " * 20_000)) == 20_001
    template = (
        "{{ bos_token }} {% for m in messages %}{{ m.role }} {{ m.content }} w9 {% endfor %}"
        "{% if add_generation_prompt %}w1{% endif %}"
    )
    config = {"chat_template": template, "bos_token": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    exact = TokenCounter(tmp_path)
    chat = ask(ApiPath.CHAT, messages=[{"role": "user", "content": "w1 w2"}])
    # <s> user w1 w2 w9 w1
    assert count(exact, chat) == 6
    broken = ask(ApiPath.CHAT, messages=3)
    assert count(exact, broken) == 1


def test_a_template_that_misbehaves_falls_back(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": evil}))
    chat = ask(ApiPath.CHAT, messages=[{"role": "user", "content": "w1 w2"}])
    assert count(TokenCounter(tmp_path), chat) == 2 + 4


def test_a_tokenizer_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        TokenCounter(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is not a tokenizer"):
        TokenCounter(tmp_path)


def test_keys_are_compared_whole_and_never_shown() -> None:
    keys = Keys(["secret-one", "secret-two"])
    assert keys.accept("Bearer secret-one")
    assert keys.accept("bearer  secret-two")
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer secret-on",
        "secret-one",
        "Basic secret-one",
        "Bearer \udcff",
    ):
        assert not keys.accept(wrong)
    assert Keys([]).accept(None)
    shown = f"{keys!r} {keys} {Secret('hidden')!r} {Secret('hidden')} {vars(keys)}"
    assert "secret" not in shown.replace("Secret", "")
    assert "hidden" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://a",
        "http://",
        "http://user:pw@a",
        "http://a?x=1",
        "http://a#x",
        "http://a*0",
        "http://a*x",
        "http://a*99999",
        "file:///etc/passwd",
        "http://[::1",
    ],
)
def test_bad_backends_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="backend of opt"):
        parse_backend("plan", "opt", text, Settings())


def test_backend_paths_and_replicas() -> None:
    backend = parse_backend("plan", "opt", "https://host/prefix/*3", Settings())
    assert str(backend.at("/v1/completions")) == "https://host/prefix/v1/completions"
    assert backend.replicas == 3
    assert str(parse_backend("p", "o", "10.0.0.1:80", Settings()).at("/x")) == "http://10.0.0.1/x"
    assert (
        str(parse_backend("p", "o", "http://h:1", Settings()).at("/health")) == "http://h:1/health"
    )


def fresh() -> Backend:
    backend = parse_backend("plan", "opt", "http://h", Settings())
    backend.probed(Probe.GOOD, Settings())
    return backend


def test_a_backend_left_out_is_tried_once_at_a_time_and_waits_longer_with_each_relapse() -> None:
    ejection = Ejection(Settings(ejection_s=1.0, ejection_most_s=4.0))
    assert ejection.admits(0.0)
    ejection.begin(0.0)
    assert not ejection.admits(0.9)
    assert ejection.admits(1.0)
    ejection.trying = True
    assert not ejection.admits(1.0), "one request at a time"
    ejection.trying = False
    waits, now_s = [], 1.0
    for _ in range(4):
        ejection.begin(now_s)
        start_s = now_s
        while not ejection.admits(now_s):
            now_s += 0.25
        waits.append(now_s - start_s)
    assert waits == [2.0, 4.0, 4.0, 4.0]
    ejection.end(now_s)
    assert ejection.admits(now_s)
    ejection.begin(now_s + 100)
    assert ejection.admits(now_s + 101), "after a long good time it begins anew"


def outcomes(good: int, bad: int, at_s: float = 0.0) -> Outcomes:
    found = Outcomes(window_s=10.0)
    for n in range(good + bad):
        found.add(at_s, good=n >= bad)
    return found


def test_only_what_fails_much_more_than_the_others_stands_out() -> None:
    def stands_out(own: Outcomes, *others: Outcomes, now_s: float = 0.0) -> bool:
        return is_outlier(own, others, now_s, Settings())

    assert stands_out(outcomes(0, 5))
    assert not stands_out(outcomes(0, 4)), "too few to tell, however many in a row"
    assert not stands_out(outcomes(6, 5)), "most go well"
    assert not stands_out(outcomes(2, 8), outcomes(3, 7)), "the others fail as much"
    assert stands_out(outcomes(2, 8), outcomes(9, 1), outcomes(8, 2))
    assert not stands_out(outcomes(0, 5), now_s=11.0), "too long ago"
    streaming = outcomes(0, 5)
    streaming.streaming = 30
    assert not stands_out(streaming), "thirty streams that run speak for it"


def test_one_lost_probe_is_forgiven_two_are_not() -> None:
    told = dataclasses.replace(Settings(), probe_failures=2)
    backend = fresh()
    backend.probed(Probe.SILENT, told)
    assert backend.healthy(0.0)
    backend.probed(Probe.SILENT, told)
    assert not backend.healthy(0.0)
    backend.probed(Probe.GOOD, told)
    assert backend.healthy(0.0)


def test_names_that_replicas_serve() -> None:
    def names(*args: str) -> list[str]:
        return served_names(make_model_plan(engine=EngineChoice(args=args)))

    assert names() == [make_model_plan().model]
    assert names("--served-model-name", "a", "b", "--dtype", "half") == ["a", "b"]
    assert names("--served_model_name=c") == ["c"]


def test_a_request_with_images_teaches_nothing_of_text() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [{"type": "text", "text": "abcd" * 10}, picture]
    request = ask(ApiPath.CHAT, messages=[{"role": "user", "content": content}])
    counted = asyncio.run(TokenCounter().count(request))
    assert counted.tokens == 10 + 4  # the text and the marks of a message: the picture is no text
    assert counted.estimated_from_bytes == 0
