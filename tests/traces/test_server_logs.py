"""Logs of vLLM and SGLang: what they lack is said, with the flag that writes it."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.spec.trace_files import histogram_of_trace
from melange_sky.traces import TraceReader
from melange_sky.workload import TraceFiles
from tests.traces.logs import some_requests, vllm, vllm_streaming

SOME = some_requests(40)


def without(log: bytes, pattern: str) -> bytes:
    return b"\n".join(line for line in log.split(b"\n") if not re.search(pattern.encode(), line))


def cut(log: bytes, what: str, most: int) -> bytes:
    """Cut texts and ids as --max-log-len does."""

    def ids(found: re.Match[str]) -> str:
        return f"{what}_token_ids: {found[1].split(', ')[:most]}".replace("'", "")

    text = re.sub(rf"{what}_token_ids: \[(7.*?)\]", ids, log.decode())
    shown = repr("a b c d e f g h i j k l m n"[:most])
    return re.sub(
        rf"{what}: .*?, (params|output_token_ids)", rf"{what}: {shown}, \1", text
    ).encode()


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (without(vllm(SOME), "Generated"), "tells no output tokens; its server writes them with --enable-log-outputs beside --enable-log-requests"),
        (without(vllm(SOME), "Received"), "not when requests came nor their prompts; its server writes them with --enable-log-requests"),
        (without(vllm_streaming(SOME), "details: prompt"), "tells no prompts; its server writes them with VLLM_LOGGING_LEVEL=DEBUG"),
        (b"INFO 03-28 09:30:00 [api_server.py:1090] vLLM API server version 0.8.4\nINFO 03-28 09:30:00 [cli.py:3] x\n", "without requests; its server writes them with --enable-log-requests --enable-log-outputs"),
        (b"[2025-03-28 09:30:00] server_args=ServerArgs(model_path='x')\n[2025-03-28 09:30:09 TP0] Decode batch, #running-req: 1\n", "SGLang without finished requests; its server writes them with --log-requests"),
        (cut(vllm(SOME), "prompt", 20), "prompts are cut off at 20 characters and tokens; its server writes them whole without --max-log-len"),
        (cut(vllm(SOME), "output", 16), "answers are cut off at 16 characters and tokens"),
    ],
)  # fmt: skip
def test_what_a_server_did_not_log_is_said_with_its_flag(
    tmp_path: Path, log: bytes, told: str
) -> None:
    path = tmp_path / "server.log"
    path.write_bytes(log)
    with pytest.raises(InputError, match=re.escape(told)) as raised:
        TraceReader(path)
    assert "\n" not in str(raised.value)


def test_texts_without_token_ids_are_estimated_and_told(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    lines = [
        f"INFO 03-28 09:{n // 60:02d}:{n % 60:02d} [logger.py:39] {text}"
        for n in range(400)
        for text in (
            f"Received request c-{n}: prompt: {'a' * (4 * n + 4)!r}, params: SamplingParams(n=1), prompt_token_ids: None, lora_request: None.",
            f"Generated response c-{n}: output: {'b' * 40!r}, output_token_ids: {[5] * 11}, finish_reason: stop",
        )
    ]
    path.write_text("\n".join(lines))
    reader = TraceReader(path)
    blocks = list(reader.blocks())
    assert [t for b in blocks for t in b.input_tokens.tolist()] == list(range(1, 401))
    assert {t for b in blocks for t in b.output_tokens.tolist()} == {11}
    assert any("estimated from texts at 4 characters a token" in n for n in reader.reading.notes)


def test_dates_without_a_year_pass_new_year_and_say_which_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(
        "\n".join(
            f"INFO {at} [logger.py:39] {text}"
            for n, at in enumerate(["12-31 23:59:50", "01-01 00:00:10", "01-01 00:00:40"])
            for text in (
                f"Received request c-{n}: prompt: 'hi', params: SamplingParams(n=1), prompt_token_ids: [1, 2], lora_request: None.",
                f"Generated response c-{n}: output: 'b', output_token_ids: [5], finish_reason: stop",
            )
        )
    )
    reader = TraceReader(path)
    times = [t for b in reader.blocks() for t in b.arrival_s.tolist()]
    assert [t - times[0] for t in times] == [0, 20, 50]
    year = datetime.now().year - 1
    assert f"without a year from {year} on" in reader.reading.kind or datetime.now().month == 12


def test_a_request_of_several_choices_counts_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    line = "INFO 03-28 09:00:00 [logger.py:39] "
    path.write_text(
        f"{line}Received request c: prompt: 'hi', params: SamplingParams(n=2), prompt_token_ids: [1, 2, 3], lora_request: None.\n"
        f"{line}Generated response c: output: 'b', output_token_ids: [5, 6], finish_reason: stop\n"
        f"{line}Generated response c: output: 'b', output_token_ids: [5], finish_reason: length\n"
        f"{line}Received request d: prompt: 'hi', params: SamplingParams(n=1), prompt_token_ids: [1], lora_request: None.\n"
    )
    reader = TraceReader(path)
    (block,) = reader.blocks()
    assert (block.input_tokens.tolist(), block.output_tokens.tolist()) == ([3], [3])
    assert (reader.tally.failed, reader.tally.without_output) == (1, 1)


def test_conversations_give_sizes_at_a_stated_estimate_and_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    talks = [
        {"id": f"t{n}", "conversations": [
            {"from": "human", "value": "q" * 40 * n}, {"from": "gpt", "value": "a" * 80},
            {"from": "human", "value": "q" * 20}, {"from": "gpt", "value": "a" * 8},
        ]} for n in range(1, 6)
    ]  # fmt: skip
    path.write_text(json.dumps(talks))
    reader = TraceReader(path)
    sizes = [
        pair
        for b in reader.blocks()
        for pair in zip(b.input_tokens.tolist(), b.output_tokens.tolist(), strict=True)
    ]
    expected = [((10 * n, 20), (10 * n + 25, 2)) for n in range(1, 6)]
    assert sizes == [pair for both in expected for pair in both]
    assert reader.reading.clock is None
    assert reader.reading.notes[0].startswith(
        "token counts are estimated from texts at 4 characters"
    )
    found = histogram_of_trace(TraceFiles(files=(path,)))
    assert found.coverage is not None and found.coverage.requests == 10
    assert (found.rate_rps, found.rate_profile) == (None, None)
