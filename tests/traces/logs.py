"""Logs of known requests, as gateways, engines and observability tools write them.

Every writer takes the same requests; what they hold is known before a file is written.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import zstandard

UTC = timezone.utc
BEGIN = datetime(2025, 3, 28, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class Request:
    """A request as it was: when it came (microseconds after `BEGIN`), its tokens, whether it was answered."""

    at_us: int
    input_tokens: int
    output_tokens: int
    ok: bool = True

    @property
    def moment(self) -> datetime:
        return BEGIN + timedelta(microseconds=self.at_us)

    @property
    def epoch_s(self) -> float:
        return self.moment.timestamp()

    @property
    def session(self) -> str:
        return f"conv-{self.input_tokens % 5}"


def some_requests(count: int = 240, seed: int = 3, fail: float = 0.0) -> list[Request]:
    """Return requests over about an hour, in order of time, on whole milliseconds."""
    rng = random.Random(seed)
    at = 0
    found = []
    for _ in range(count):
        at += max(1, int(rng.expovariate(1 / 15_000))) * 1000
        ok = rng.random() >= fail
        tokens = rng.randint(20, 6000), rng.randint(2, 900)
        found.append(Request(at, tokens[0], tokens[1] if ok else 0, ok))
    return found


Rows = Sequence[Request]
Writer = Callable[[Rows], bytes]


def delimited(
    rows: list[list[Any]], separator: str = ",", quoting: int = csv.QUOTE_MINIMAL
) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator="\n").writerows(rows)  # type: ignore[call-overload]
    return text.getvalue().encode()


def lines(values: Sequence[Any]) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def table(
    header: str,
    row: Callable[[Request], list[Any]],
    separator: str = ",",
    quoting: int = csv.QUOTE_MINIMAL,
) -> Writer:
    return lambda rows: delimited([header.split(separator), *map(row, rows)], separator, quoting)


def per_line(record: Callable[[Request], Any]) -> Writer:
    return lambda rows: lines([record(r) for r in rows])


def iso(r: Request, digits: int = 6, zone: str = "") -> str:
    text = r.moment.strftime("%Y-%m-%d %H:%M:%S")
    return text + (f".{r.moment.microsecond:06d}"[: digits + 1] if digits else "") + zone


def azure_2024(r: Request) -> list[Any]:
    return [iso(r, zone="+00:00"), r.input_tokens, r.output_tokens]


def litellm(r: Request) -> dict[str, Any]:
    return {
        "request_id": f"chatcmpl-{r.at_us}",
        "call_type": "acompletion",
        "api_key": "sha",
        "spend": 0.002,
        "total_tokens": r.input_tokens + r.output_tokens,
        "prompt_tokens": r.input_tokens,
        "completion_tokens": r.output_tokens,
        "startTime": iso(r).replace(" ", "T") + "Z",
        "endTime": iso(r).replace(" ", "T") + "Z",
        "completionStartTime": iso(r).replace(" ", "T") + "Z",
        "model": "gpt, large",
        "cache_hit": "False",
        "messages": [{"role": "user", "content": 'say "hi",\nplease'}],
        "metadata": {
            "usage_object": {"prompt_tokens": r.input_tokens, "completion_tokens": r.output_tokens}
        },
        "session_id": r.session,
        "status": "success" if r.ok else "failure",
    }


def litellm_csv(rows: Rows) -> bytes:
    records = [litellm(r) for r in rows]
    cells = [
        [json.dumps(v) if isinstance(v, dict | list) else v for v in record.values()]
        for record in records
    ]
    return delimited([list(records[0]), *cells])


def openai_batch(r: Request) -> dict[str, Any]:
    usage = {
        "prompt_tokens": r.input_tokens,
        "completion_tokens": r.output_tokens,
        "total_tokens": r.input_tokens + r.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(r.epoch_s),
        "usage": usage,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        ],
    }
    if not r.ok:
        return {
            "id": "batch_req_1",
            "custom_id": "c",
            "response": None,
            "error": {"code": "batch_expired", "message": "late"},
        }
    return {
        "id": "batch_req_1",
        "custom_id": "c",
        "response": {"status_code": 200, "request_id": "r", "body": body},
        "error": None,
    }


def openai_response(r: Request) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "created_at": r.epoch_s, "status": "completed" if r.ok else "failed",
        "error": None if r.ok else {"code": "server_error", "message": "x"},
        "max_output_tokens": 4096, "usage": {"input_tokens": r.input_tokens, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": r.output_tokens, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 9},
    }  # fmt: skip


def langfuse(r: Request) -> dict[str, Any]:
    return {
        "id": "o", "traceId": "t", "type": "GENERATION", "name": "llm", "startTime": iso(r, 3).replace(" ", "T") + "Z",
        "endTime": iso(r, 3).replace(" ", "T") + "Z", "completionStartTime": None, "model": "m", "level": "DEFAULT" if r.ok else "ERROR",
        "statusMessage": None, "usageDetails": {"input": r.input_tokens, "output": r.output_tokens, "total": 3, "input_cached_tokens": 4},
        "costDetails": {"input": 0.001, "output": 0.2}, "latency": 1.5, "timeToFirstToken": 0.2, "sessionId": r.session,
    }  # fmt: skip


def langfuse_traces(rows: Rows) -> bytes:
    """Traces with their observations within, spans that are no requests among them."""
    span = {"id": "s", "type": "SPAN", "startTime": "2025-03-28T09:00:00.000Z", "level": "DEFAULT"}
    return json.dumps(
        {
            "data": [
                {
                    "id": "t",
                    "timestamp": "2025-03-28T08:00:00Z",
                    "sessionId": r.session,
                    "observations": [span, langfuse(r)],
                }
                for r in rows
            ]
        }
    ).encode()


def span(r: Request, encoded: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "gen_ai.operation.name": "chat", "gen_ai.request.max_tokens": 512,
        "gen_ai.usage.input_tokens": r.input_tokens, "gen_ai.usage.output_tokens": r.output_tokens,
        "gen_ai.conversation.id": r.session,
    }  # fmt: skip
    if not r.ok:
        values["error.type"] = "timeout"
        del values["gen_ai.usage.output_tokens"]
    attributes: Any = values
    if encoded:
        attributes = [
            {"key": k, "value": {"intValue": str(v)} if isinstance(v, int) else {"stringValue": v}}
            for k, v in values.items()
        ]
    at_ns = int(r.moment.timestamp()) * 10**9 + r.moment.microsecond * 1000
    return {
        "traceId": "5b8e", "spanId": "eee1", "name": "chat m", "kind": 3, "startTimeUnixNano": str(at_ns), "endTimeUnixNano": str(at_ns + 10**9),
        "attributes": attributes, "events": [{"timeUnixNano": str(at_ns + 5), "name": "first"}], "status": {"code": 1 if r.ok else 2},
    }  # fmt: skip


def otlp(rows: Rows) -> bytes:
    """The OTLP file exporter: a batch of spans a line, in the protocol's own JSON."""
    http = {
        "traceId": "a",
        "spanId": "b",
        "name": "GET /",
        "startTimeUnixNano": "1",
        "attributes": [{"key": "http.method", "value": {"stringValue": "GET"}}],
    }
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "gw"}}]}
    batches = [rows[k : k + 50] for k in range(0, len(rows), 50)]
    return lines(
        [
            {
                "resourceSpans": [
                    {
                        "resource": resource,
                        "scopeSpans": [
                            {
                                "scope": {"name": "x"},
                                "spans": [http, *(span(r, True) for r in batch)],
                            }
                        ],
                    }
                ]
            }
            for batch in batches
        ]
    )


def sglang(rows: Rows) -> bytes:
    """SGLang's request log in JSON: a line when a request comes, one when it is done."""
    found: list[dict[str, Any]] = []
    for r in rows:
        at = iso(r).replace(" ", "T") + "+00:00"
        found.append(
            {
                "timestamp": at,
                "event": "request.received",
                "rid": "a",
                "obj": {"text": "hi", "sampling_params": {"max_new_tokens": 64}},
            }
        )
        meta = {"id": "a", "finish_reason": {"type": "stop"} if r.ok else {"type": "abort"}, "prompt_tokens": r.input_tokens,
                "completion_tokens": r.output_tokens, "cached_tokens": 0, "e2e_latency": 1.2}  # fmt: skip
        found.append(
            {
                "timestamp": at,
                "event": "request.finished",
                "rid": "a",
                "obj": {"text": "hi"},
                "out": {"text": "x", "meta_info": meta},
            }
        )
    return lines(found)


def in_order(events: list[tuple[int, str]]) -> bytes:
    """Lines in the order of their microseconds, with what a server writes between them."""
    found = ["INFO:     Application startup complete."]
    for n, (_, line) in enumerate(sorted(events, key=lambda event: event[0])):
        found.append(line)
        if n % 3 == 0:
            found.append('INFO:     10.0.0.1:4242 - "POST /v1/chat/completions HTTP/1.1" 200 OK')
    return ("\n".join(found) + "\n").encode()


def token_ids(count: int) -> str:
    return str(list(range(7, 7 + count)))


PARAMS = "SamplingParams(n=1, temperature=1.0, stop=[], max_tokens=900, min_tokens=0)"
SAYS = "it's \"quoted\", prompt_token_ids: [1, 2], 'meta_info': {'prompt_tokens': 5}"


def vllm(rows: Rows) -> bytes:
    """vLLM 0.10 with --enable-log-outputs: a line when a request comes, one with its answer; no year."""
    events = []
    for n, r in enumerate(rows):
        at = r.moment.strftime("(APIServer pid=1) INFO %m-%d %H:%M:%S [logger.py:39]")
        done = (r.moment + timedelta(seconds=9)).strftime(
            "\x1b[36m(APIServer pid=1)\x1b[0m INFO %m-%d %H:%M:%S [logger.py:71]"
        )
        events.append(
            (
                r.at_us,
                f"{at} Received request chatcmpl-{n}: prompt: {SAYS!r}, params: {PARAMS}, prompt_token_ids: {token_ids(r.input_tokens)}, prompt_embeds shape: None, lora_request: None.",
            )
        )
        ended = f"Generated response chatcmpl-{n}: output: {SAYS!r}, output_token_ids: {token_ids(r.output_tokens)}, finish_reason: stop"
        events.append(
            (
                r.at_us + 9_000_000,
                f"{done} {ended}" if r.ok else f"{done} Aborted request chatcmpl-{n}.",
            )
        )
    return in_order(events)  # fmt: skip


def vllm_streaming(rows: Rows) -> bytes:
    """Newer vLLM at DEBUG, streaming, behind a collector that puts the whole time in front."""
    events = []
    for n, r in enumerate(rows):

        def line(after_us: int, text: str, at: datetime = r.moment, since: int = r.at_us) -> None:
            then = at + timedelta(microseconds=after_us)
            stamp = then.strftime(
                "%Y-%m-%dT%H:%M:%S.%f000Z stdout F (APIServer pid=1) INFO %m-%d %H:%M:%S"
            )
            events.append((since + after_us, f"{stamp} [entrypoints/logger.py:63] {text}"))

        name = f"chatcmpl-{n}"
        line(
            0,
            f"Request {name} details: prompt: {SAYS!r}, prompt_token_ids: {token_ids(r.input_tokens)}, prompt_embeds shape: None.",
        )
        line(1, f"Received request {name}: params: {PARAMS}, lora_request: None.")
        first = r.output_tokens // 2
        for k, part in enumerate((first, r.output_tokens - first)):
            line(
                5_000_000 + 2 * k,
                f"Generated response {name} (streaming delta) details: output_token_ids: {token_ids(part)}",
            )
            line(
                5_000_001 + 2 * k,
                f"Generated response {name} (streaming delta): output: {SAYS!r}, finish_reason: None",
            )
        line(
            6_000_000,
            f"Generated response {name} (streaming complete): output: {SAYS + SAYS!r}, finish_reason: streaming_complete",
        )
    return in_order(events)  # fmt: skip


def sglang_text(rows: Rows) -> bytes:
    """SGLang's request log as text, its own health checks among it."""
    events = []
    for n, r in enumerate(rows):
        at = r.moment.strftime("[%Y-%m-%d %H:%M:%S]")
        done = (r.moment + timedelta(seconds=4)).strftime("[%Y-%m-%d %H:%M:%S TP0]")
        obj = (
            f"GenerateReqInput(rid='r{n}', text={SAYS!r}, sampling_params={{'max_new_tokens': 64}})"
        )
        meta = {"id": f"r{n}", "finish_reason": {"type": "stop" if r.ok else "abort"}, "prompt_tokens": r.input_tokens,
                "completion_tokens": r.output_tokens, "cached_tokens": 0, "e2e_latency": 4.01}  # fmt: skip
        if n % 2:  # a log that begins midway: the rest is told by the latency
            events.append((r.at_us, f"{at} Receive: obj={obj}"))
        events.append(
            (
                r.at_us + 4_000_000,
                f"{done} Finish: obj={obj}, out={{'text': {SAYS!r}, 'meta_info': {meta}}}",
            )
        )
        if n % 9 == 0:
            check = obj.replace(f"'r{n}'", "'HEALTH_CHECK_1'")
            events.append((r.at_us, f"{at} Finish: obj={check}, out={{'meta_info': {meta}}}"))
    return in_order(events)


def vllm_bench(rows: Rows) -> bytes:
    """The result of vLLM's own benchmark with its details: a list per column."""
    return json.dumps(
        {
            "date": "20250328-093000", "backend": "vllm", "num_prompts": len(rows), "request_throughput": 1.0, "total_input_tokens": 5,
            "input_lens": [r.input_tokens for r in rows], "output_lens": [r.output_tokens for r in rows], "ttfts": [0.1 for _ in rows],
            "itls": [[0.1] for _ in rows], "start_times": [r.at_us / 1e6 + 1000.5 for r in rows], "errors": ["" if r.ok else "timeout" for r in rows],
        }
    ).encode()  # fmt: skip


def packed(writer: Writer, how: Callable[[bytes], bytes]) -> Writer:
    return lambda rows: how(writer(rows))


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", data)
    return file.getvalue()


def several_frames(data: bytes) -> bytes:
    half = len(data) // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


def parquet(columns: Callable[[Rows], dict[str, Any]]) -> Writer:
    def write(rows: Rows) -> bytes:
        file = io.BytesIO()
        pl.DataFrame(columns(rows)).write_parquet(file)
        return file.getvalue()

    return write


def berlin(r: Request) -> str:
    return r.moment.astimezone(ZoneInfo("Europe/Berlin")).strftime("%Y-%m-%d %H:%M:%S.%f")


AZURE = table(
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    lambda r: [iso(r, 6) + "0", r.input_tokens, r.output_tokens],
)
OWN = table(
    "arrival_s,input_tokens,output_tokens",
    lambda r: [r.at_us / 1e6, r.input_tokens, r.output_tokens],
)

FORMATS: dict[str, Writer] = {
    "azure 2023": AZURE,
    "azure 2024": table("TIMESTAMP,ContextTokens,GeneratedTokens", azure_2024),
    "own": OWN,
    "mooncake": per_line(lambda r: {"timestamp": r.at_us // 1000, "input_length": r.input_tokens, "output_length": r.output_tokens, "hash_ids": [1, 2]}),
    "mooncake as an array": lambda rows: json.dumps([{"timestamp": r.at_us // 1000, "input_length": r.input_tokens, "output_length": r.output_tokens} for r in rows], indent=1).encode(),
    "bailian": per_line(lambda r: {"chat_id": 1, "parent_chat_id": -1, "timestamp": r.at_us / 1e6, "input_length": r.input_tokens, "output_length": r.output_tokens, "type": "text", "turn": 1, "hash_ids": [3]}),
    "burstgpt": table("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", lambda r: [r.at_us / 1e6, "GPT-4", r.input_tokens, r.output_tokens, 9, "API log"]),
    "vidur": table("arrived_at,num_prefill_tokens,num_decode_tokens", lambda r: [r.at_us / 1e6, r.input_tokens, r.output_tokens]),
    "litellm csv": litellm_csv,
    "litellm jsonl": per_line(litellm),
    "openai batch output": per_line(openai_batch),
    "openai responses": per_line(openai_response),
    "langfuse jsonl": per_line(langfuse),
    "langfuse traces": langfuse_traces,
    "otlp": otlp,
    "spans, attributes as a mapping": per_line(lambda r: span(r, False)),
    "sglang": sglang,
    "vllm": vllm,
    "vllm, streaming at debug": vllm_streaming,
    "vllm, gzip": packed(vllm, gzip.compress),
    "sglang as text": sglang_text,
    "vllm bench": vllm_bench,
    "openinference csv": table("start_time;attributes.llm.token_count.prompt;attributes.llm.token_count.completion;attributes.llm.token_count.total;status_code", lambda r: [iso(r), r.input_tokens, r.output_tokens, 4, "OK" if r.ok else "ERROR"], ";"),
    "gemini": per_line(lambda r: {"requestTime": iso(r, 6).replace(" ", "T") + "Z", "response": {"usageMetadata": {"promptTokenCount": r.input_tokens, "candidatesTokenCount": r.output_tokens, "totalTokenCount": 3}}}),
    "bedrock": per_line(lambda r: {"timestamp": iso(r, 0).replace(" ", "T") + "Z", "operation": "Converse", "input": {"inputTokenCount": r.input_tokens}, "output": {"outputTokenCount": r.output_tokens}, "errorCode": "" if r.ok else "ThrottlingException"}),
    "tabs": table("time\tprompt_len\toutput_len", lambda r: [r.epoch_s, r.input_tokens, r.output_tokens], "\t"),
    "semicolons and decimal commas": table("time_s;input tokens;output tokens", lambda r: [str(r.at_us / 1e6).replace(".", ","), f"{r.input_tokens:,}", r.output_tokens], ";"),
    "all quoted": table("Created At,Tokens In,Tokens Out", lambda r: [iso(r, 3, " UTC"), r.input_tokens, f"{r.output_tokens}.0"], quoting=csv.QUOTE_ALL),
    "title before the header": lambda rows: b"# exported 2025\n\n" + OWN(rows),
    "blank lines and a footer of blanks": lambda rows: OWN(rows).replace(b"\n", b"\n\n", 3) + b"\n \n,,\n",
    "utf-16 with mark": packed(AZURE, lambda data: data.decode().encode("utf-16")),
    "utf-16-be without": packed(AZURE, lambda data: data.decode().encode("utf-16-be")),
    "cr lines": packed(AZURE, lambda data: data.replace(b"\n", b"\r")),
    "crlf and mark": packed(AZURE, lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")),
    "latin-1 in a name": table("arrival_s,Nutzer,input_tokens,output_tokens", lambda r: [r.at_us / 1e6, "J\u00f6rg", r.input_tokens, r.output_tokens]),
    "gzip": packed(AZURE, gzip.compress),
    "two gzip members": packed(AZURE, lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:])),
    "zstandard": packed(AZURE, zstandard.compress),
    "two zstandard frames": packed(per_line(litellm), several_frames),
    "bzip2": packed(AZURE, bz2.compress),
    "xz": packed(AZURE, lzma.compress),
    "zip": packed(AZURE, zipped),
    "parquet": parquet(lambda rows: {"ts": [r.moment for r in rows], "usage": [{"prompt_tokens": r.input_tokens, "completion_tokens": r.output_tokens} for r in rows], "ok": [r.ok for r in rows]}),
    "parquet of milliseconds": parquet(lambda rows: {"created_ms": [int(r.epoch_s * 1000) for r in rows], "input_tokens": [r.input_tokens for r in rows], "output_tokens": [r.output_tokens for r in rows]}),
    "newest first": lambda rows: AZURE(list(reversed(rows))),
    "excel days": table("Start time,Input tokens,Output tokens", lambda r: [f"{25569 + r.epoch_s / 86400:.9f}", r.input_tokens, r.output_tokens]),
}  # fmt: skip

EXACT_TO_S = {
    "openai batch output": 1.0,
    "vllm": 1.0,
    "vllm, gzip": 1.0,
    "sglang as text": 1.01,
    "bedrock": 1.0,
    "excel days": 1e-3,
    "parquet of milliseconds": 2e-3,
}
"""Seconds to which a format tells a time, where that is coarser than a millisecond."""

TELL_FAILURES = (
    "litellm csv", "litellm jsonl", "openai batch output", "openai responses", "langfuse jsonl", "langfuse traces", "otlp",
    "spans, attributes as a mapping", "sglang", "vllm", "sglang as text", "vllm bench", "openinference csv", "bedrock", "burstgpt", "parquet",
)  # fmt: skip

SPELLINGS: dict[str, tuple[Callable[[Request], Any], str | None]] = {
    "2025-03-28 09:30:15.250": (lambda r: iso(r, 3), None),
    "2025-03-28T09:30:15.250000Z": (lambda r: iso(r).replace(" ", "T") + "Z", None),
    "2025-03-28T11:30:15.250+02:00": (lambda r: r.moment.astimezone(timezone(timedelta(hours=2))).isoformat(timespec="milliseconds"), None),
    "28/Mar/2025:04:30:15 -0500": (lambda r: r.moment.astimezone(timezone(timedelta(hours=-5))).strftime("%d/%b/%Y:%H:%M:%S.%f %z"), None),
    "Fri, 28 Mar 2025 09:30:15 GMT": (lambda r: format_datetime(r.moment, usegmt=True), None),
    "3/28/2025 9:30:15.250 AM": (lambda r: r.moment.strftime("%m/%d/%Y %I:%M:%S.%f %p"), None),
    "28.03.2025 10:30:15,250 in Berlin": (lambda r: r.moment.astimezone(ZoneInfo("Europe/Berlin")).strftime("%d.%m.%Y %H:%M:%S,%f"), "Europe/Berlin"),
    "seconds since 1970": (lambda r: f"{r.epoch_s:.3f}", None),
    "milliseconds since 1970": (lambda r: str(round(r.epoch_s * 1e3)), None),
    "microseconds since 1970": (lambda r: str(round(r.epoch_s * 1e6)), None),
    "nanoseconds since 1970": (lambda r: str(round(r.epoch_s * 1e6)) + "000", None),
    "2025-03-28 09:30:15.250 UTC": (lambda r: iso(r, 3, " UTC"), None),
    "2025-03-28 05:30:15.250 America/New_York": (lambda r: r.moment.astimezone(ZoneInfo("America/New_York")).strftime("%Y-%m-%d %H:%M:%S.%f America/New_York"), None),
    "20250328T093015.250Z": (lambda r: r.moment.strftime("%Y%m%dT%H%M%S.%fZ"), None),
}  # fmt: skip
"""How an instant is written, and the zone that has to be named for it."""
