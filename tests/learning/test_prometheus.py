"""What a Prometheus kept of servers tells the same as looking at them; and every way in which it cannot."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from melange_sky.errors import InputError, MelangeError, SourceUnavailableError
from melange_sky.learning import Scrape
from melange_sky.planner.traffic_learning import LearnOptions, learn_from_traffic
from melange_sky.profiler import prometheus as client
from melange_sky.profiler.prometheus import Asked, Prometheus
from tests.cli.runner import call
from tests.learning.kept import Series, prometheus, saying, series_of
from tests.learning.pages import ENGINE
from tests.learning.test_scraping import LOOK

EVERY_S, NOW_S = 15.0, 1_000_000.0


def looks(count: int = 400, end_s: float = NOW_S - 1) -> list[Scrape]:
    """Looks whose counters grow evenly."""

    def at(k: int) -> Scrape:
        grown = {
            name: value if name in ("running", "waiting", "kv_use") else value * (k + 1)
            for name, value in LOOK.figures.items()
        }
        sizes = [
            dataclasses.replace(s, counts=tuple(c * (k + 1) for c in s.counts), tokens=s.tokens * k)
            for s in (LOOK.prompts, LOOK.answers)
            if s is not None
        ]
        return Scrape(
            time_s=end_s - EVERY_S * (count - 1 - k),
            figures=grown,
            prompts=sizes[0],
            answers=sizes[1],
        )

    return [at(k) for k in range(count)]


def two_servers() -> Series:
    return {
        **series_of(looks(), {"instance": "a:8000", "job": "chat"}),
        **series_of(looks(), {"instance": "b:8000", "job": "chat"}),
    }


def kept(url: str, *, select: str | None = None, window_s: float = 3600.0, model: str = "m"):
    server = Prometheus.at(url, None, "PROMETHEUS_TOKEN")
    return server.looks(ENGINE, Asked(window_s=window_s, model=model, select=select))


def refused(url: str, **asked: object) -> str:
    with pytest.raises(MelangeError) as error:
        kept(url, **asked)  # type: ignore[arg-type]
    said = re.sub(r"http://127.0.0.1:\d+", "URL", str(error.value))
    assert "\n" not in said
    return said


def test_samples_become_the_looks_that_were_taken() -> None:
    with prometheus(two_servers(), NOW_S) as url:
        found = kept(url)
        late = kept(url, window_s=5400.0, select='{instance="a:8000",}')
    assert [len(each) for each in found.looks] == [240, 240]
    assert list(found.looks[0]) == looks()[-240:]
    assert (found.unread, found.warned) == (0, 0)
    assert [len(each) for each in late.looks] == [360]


def test_an_answer_too_long_is_asked_for_in_halves(monkeypatch) -> None:
    with prometheus(two_servers(), NOW_S) as url:
        whole = kept(url)
        monkeypatch.setattr(client, "MOST_BYTES", 120_000)
        assert kept(url) == whole
        monkeypatch.setattr(client, "MOST_BYTES", 2_000)
        assert refused(url) == (
            "URL: a minute of samples is longer than 0.002 MB; choose fewer servers with --select"
        )


def test_figures_that_are_none_or_only_in_part_there_are_left_out() -> None:
    series = two_servers()
    for key, pairs in series.items():
        labels = dict(key)
        if labels["instance"] != "a:8000":
            continue
        if labels["__name__"] == "vllm:prompt_tokens_total":
            pairs[-1] = (pairs[-1][0], "NaN")
        if labels["__name__"] == "vllm:num_requests_waiting":
            del pairs[-3:-1]
    with prometheus(series, NOW_S, warning="a store did not answer") as url:
        found = kept(url)
    assert [len(each) for each in found.looks] == [237, 240]
    assert found.unread == 3
    assert found.warned > 0


def test_several_models_are_told_apart_or_asked_for() -> None:
    series = {
        **series_of(looks(), {"instance": "a:8000"}, model="one"),
        **series_of(looks(), {"instance": "b:8000"}, model="two"),
    }
    with prometheus(series, NOW_S) as url:
        assert len(kept(url, model="two").looks) == 1
        assert len(kept(url, model="other", select='instance="b:8000"').looks) == 1
        assert refused(url, model="other") == (
            "URL: has figures of several models (one, two); choose one: --select 'model_name=\"one\"'"
        )


def test_figures_under_other_names_are_said_to_be_missing() -> None:
    renamed = {
        tuple((k, v.replace("prompt_tokens_total", "prompted_total")) for k, v in key): pairs
        for key, pairs in two_servers().items()
    }
    with prometheus(renamed, NOW_S) as url:
        assert refused(url).startswith("URL: no vllm:prompt_tokens_total on the page; vLLM counts")
        assert refused(url, select='job="other"') == (
            'URL: knows no vllm:num_requests_running where job="other" within the window; vLLM counts '
            "under this name: does it scrape the replicas, and is the selection right?"
        )


def test_servers_under_the_same_labels_are_no_traffic() -> None:
    """Their counters fall back at every look."""
    mixed = two_servers()
    for key in [key for key in mixed if ("instance", "b:8000") in key]:
        same = tuple((k, "a:8000" if k == "instance" else v) for k, v in key)
        again = [(time_s + 7, str(float(value) / 2)) for time_s, value in mixed.pop(key)]
        mixed[same] = sorted([*mixed[same], *again])
    with prometheus(mixed, NOW_S) as url, pytest.raises(InputError) as error:
        learn_from_traffic(
            LearnOptions(prometheus=url, model="Qwen/Qwen3-8B", accelerator="H100:1")
        )
    assert str(error.value) == (
        "only 0 minutes with enough traffic were seen, 5 are needed; left out: a server started anew "
        "(239 ×), which servers under the same labels look like; look longer (--window 1h)"
    )


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>login</html>", "does not answer as Prometheus's HTTP API does; is this its"),
        (200, b"[" * 100_000, "does not answer as Prometheus's HTTP API does"),
        (200, b'{"status": "success", "data": {"result": {}}}', "does not answer as Prom"),
        (200, b'{"status": "success", "data": {"result": ["a", "b"]}}', "does not answer as P"),
        (401, b"", "HTTP 401, it wants a token that it knows; put one into PROMETHEUS_TOKEN"),
        (403, b"", "HTTP 403, it wants a token"),
        (302, b"", "HTTP 302"),
        (503, b"overloaded\nnow", "HTTP 503: overloaded now"),
        (422, b'{"status": "error", "error": "too many samples"}', "HTTP 422: too many samples"),
    ],
)
def test_answers_of_something_else_are_one_line(status: int, body: bytes, said: str) -> None:
    with saying(body, status) as url:
        assert refused(url).startswith(f"URL: {said}")


def test_rows_of_anything_are_harmless() -> None:
    """The question for the time is answered by the first row, the others by rows that hold nothing."""
    rows = [1.0, "1000", {"metric": {"model_name": "m"}, "values": 5}, {"values": [[], ["a", "b"]]}]
    body = json.dumps({"status": "success", "data": {"result": rows}}).encode()
    with saying(body) as url:
        assert (
            refused(url)
            == "URL: does not answer as Prometheus's HTTP API does; is this its address?"
        )


@pytest.mark.parametrize(
    "select", ["", "{}", "job", 'job="a"} or {x="y"', 'job="a"}[5m]', 'a="b" c="d"', 'a="b\nc"']
)
def test_selections_are_labels_and_nothing_more(select: str) -> None:
    with prometheus(two_servers(), NOW_S) as url:
        assert "is no selection; write label=" in refused(url, select=select)


def test_a_token_is_sent_and_never_shown(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path))
    asked = ["profile", "learn", "--model", "Qwen/Qwen3-8B", "--accelerator", "H100:1"]
    with prometheus({}, NOW_S, token="Bearer s3cret") as url:
        code, _, said = call(capsys, *asked, "--prometheus", url)
        assert (code, "put one into PROMETHEUS_TOKEN" in said) == (4, True)
        monkeypatch.setenv("MINE", "s3cret")
        code, _, said = call(capsys, *asked, "--prometheus", url, "--prometheus-token-env", "MINE")
        assert (code, "knows no vllm:num_requests_running within" in said) == (2, True)
    assert "s3cret" not in said
    assert "s3cret" not in repr(Prometheus.at("http://h", "s3cret", "MINE"))
    monkeypatch.setenv("MINE", "a\nb: c")
    code, _, said = call(capsys, *asked, "--prometheus", url, "--prometheus-token-env", "MINE")
    assert (code, said) == (2, "error: MINE: is not one line of plain characters\n")


def test_one_source_is_needed_and_one_is_enough(capsys) -> None:
    asked = ["profile", "learn", "--model", "Qwen/Qwen3-8B", "--accelerator", "H100:1"]
    both = ["--metrics", "http://127.0.0.1:9", "--prometheus", "http://127.0.0.1:9"]
    for more, said in (
        ([], "--metrics is needed, the address of each replica"),
        (both, "--metrics looks from now on and --prometheus back: one of the two"),
        ([*both[:2], "--select", 'a="b"'], "--select chooses among what a --prometheus knows"),
        (["--prometheus", "ftp://x"], "--prometheus 'ftp://x' is not an http:// or https:// addr"),
        (["--prometheus", "http://u:pw@h"], "--prometheus: the address holds a user or a password"),
    ):
        code, _, told = call(capsys, *asked, *more)
        assert code == 2
        assert told.startswith(f"error: {said}")
        assert "pw" not in told


def test_no_server_is_said_at_once() -> None:
    with pytest.raises(SourceUnavailableError, match=r"http://127\.0\.0\.1:9: Cannot connect"):
        kept("http://127.0.0.1:9")
