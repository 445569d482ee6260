"""What servers write of requests between their other lines: one line when a request comes, one when it is answered.

Forms: vLLM's `RequestLogger` (``--enable-log-requests --enable-log-outputs``; details at DEBUG in newer
releases) and SGLang's (``--log-requests``, as text; its JSON is read as JSON).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

EVENT = re.compile(
    r"(?P<before>[^'\"{]{0,300}?)\b(?P<what>Received request |Request (?=\S+ details: )|Generated response "
    r"|Aborted request(?:\(s\))? |Receive: obj=|Finish: obj=)"
)
"""How a line about a request begins; before it stands what loggers and collectors put there."""

_BARE_VLLM = re.compile(
    r"^[^'\"{,\n]{0,120}\b(?:INFO|DEBUG|WARNING)\S* \d\d-\d\d \d\d:\d\d:\d\d \[?[\w./-]+\.py:\d+\]",
    re.MULTILINE,
)
_BARE_SGLANG = re.compile(
    r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^\]]*\] (?:server_args=|(?:Prefill|Decode) batch)",
    re.MULTILINE,
)
"""Lines of either server that are about no request."""

_FULL = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d:\d\d)(?:[.,](?P<part>\d+))?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
_NO_YEAR = re.compile(r"(?<![\d-])(\d\d-\d\d \d\d:\d\d:\d\d)(?!\d)")
_GENERATED = re.compile(
    r"(?P<id>\S+?)(?: \(streaming (?P<stream>delta|complete)\))?(?P<details> details)?: "
)
_COUNTED = re.compile(r"'<streaming_complete: (\d+) tokens>'\Z")
_CHOICES = re.compile(r"SamplingParams\(n=(\d+)")
_SGLANG_RID = re.compile(r"\brid='([^']+)'")
_OWN_CHECK = "HEALTH_CHECK"
"""SGLang's requests to itself are no demand."""


@dataclass(slots=True, kw_only=True)
class Sizes:
    """A prompt or answer as far as it is told: its tokens, its characters; None for unknown."""

    tokens: int | None = None
    characters: int | None = None
    text_hash: int = 0

    @property
    def is_told(self) -> bool:
        """Whether anything tells its size."""
        return self.tokens is not None or self.characters is not None

    def add(self, ids: int | None, text: str | None) -> None:
        """Add a part: its number of token ids, its text."""
        if ids is not None:
            self.tokens = (self.tokens or 0) + ids
        if text is not None:
            self.characters = (self.characters or 0) + len(text)
            self.text_hash = hash((self.text_hash, text))


@dataclass(slots=True, kw_only=True)
class Request:
    """A request as its lines tell it so far. `open_choices`: answers that are still to come."""

    stamp: str | None = None
    is_begun: bool = True
    is_answered: bool = False
    open_choices: int = 1
    finish: str | None = None
    input: Sizes = field(default_factory=Sizes)
    output: Sizes = field(default_factory=Sizes)
    streamed: Sizes = field(default_factory=Sizes)


def stamp_before(before: str) -> datetime | str | None:
    """Return the time that stands before a message: as text, month first, where it names no year."""
    full = _FULL.search(before)
    if full is None:
        short = _NO_YEAR.search(before)
        return None if short is None else short[1]
    zone = (full["zone"] or "").replace("Z", "+00:00")
    if len(zone) == 5:
        zone = f"{zone[:3]}:{zone[3:]}"
    part = (full["part"] or "")[:6].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{full['day']}T{full['time']}.{part}{zone}")
    except ValueError:
        return None


def _written(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(sep=" ", timespec="microseconds")


def _read_vllm(
    what: str, text: str, at: datetime | None, begun: dict[str, Request]
) -> Request | None:
    """Take a line of vLLM's into the requests that have begun; return the one that it ends."""
    if what.startswith("Generated"):
        return _generated(text, begun)
    if what.startswith("Aborted"):
        request = begun.pop(text.split(".")[0].strip(), None)
        if request is not None:
            request.finish = "abort"
        return request
    name, _, rest = text.partition(" details: " if what == "Request " else ": ")
    request = begun.setdefault(name, Request(stamp=_written(at)))
    choices = _CHOICES.search(rest, rest.rfind("SamplingParams("))
    if choices is not None:
        request.open_choices = int(choices[1])
    # What follows params in newer releases is a preview that may be cut.
    if rest.startswith("prompt: ") and not request.input.is_told:
        end = max(rest.rfind(f", {key}: ") for key in ("params", "sampling_params"))
        ids_at = rest.rfind(", prompt_token_ids: ")
        request.input.add(
            _ids(rest, ids_at, ", prompt_token_ids: "),
            _text(rest[8 : end if end >= 0 else ids_at]),
        )
    return None


def _generated(text: str, begun: dict[str, Request]) -> Request | None:
    head = _GENERATED.match(text)
    if head is None:
        return None
    name = head["id"] if head["id"] in begun else f"{head['id']}-0"
    request = begun.get(name)
    rest = text[head.end() :].rstrip()
    if request is None:
        is_part = head["stream"] == "delta" or head["details"]
        return None if is_part else Request(is_begun=False, is_answered=True)
    part = request.streamed if head["stream"] == "delta" else request.output
    if head["details"]:
        part.add(_ids(rest, 0, "output_token_ids: "), None)
        return None
    ids_at, end = rest.rfind(", output_token_ids: "), rest.rfind(", finish_reason: ")
    shown = rest[len("output: ") : ids_at if ids_at >= 0 else end]
    counted = _COUNTED.match(shown)
    if counted is not None:
        part.add(int(counted[1]), None)
    else:
        part.add(_ids(rest, ids_at, ", output_token_ids: "), _text(shown))
    if head["stream"] == "delta":
        return None
    request.open_choices -= 1
    request.is_answered = True
    request.finish = rest[end + len(", finish_reason: ") :]
    if request.open_choices > 0:
        return None
    if request.output.tokens is None:
        request.output.tokens = request.streamed.tokens
    return begun.pop(name)


def _ids(text: str, at: int, key: str) -> int | None:
    """Return how many token ids a list has, None where there is no list."""
    start = at + len(key)
    if at < 0 or text[start : start + 1] not in ("[", "("):
        return None
    inner = text[start + 1 : text.find("]" if text[start] == "[" else ")", start)]
    return inner.strip(" ,").count(",") + 1 if inner.strip() else 0


def _text(shown: str) -> str | None:
    """Return the text that Python shows so, None where it shows none."""
    if shown[:1] not in ("'", '"'):
        return None
    try:
        value = ast.literal_eval(shown)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return shown[1:-1]
    return value if isinstance(value, str) else None


def _read_sglang(
    what: str, text: str, at: datetime | None, begun: dict[str, Request]
) -> Request | None:
    """Take a line of SGLang's into the requests that have begun; return the one that it ends."""
    rid = _SGLANG_RID.search(text)
    if rid is not None and rid[1].startswith(_OWN_CHECK):
        return None
    if what.startswith("Receive"):
        if rid is not None:
            begun[rid[1]] = Request(stamp=_written(at))
        return None
    meta = text[max(text.rfind("'meta_info': {"), text.rfind("out={")) :]
    counts = [_number(meta, key) for key in ("prompt_tokens", "completion_tokens", "e2e_latency")]
    request = begun.pop(rid[1], None) if rid is not None else None
    if request is None:
        came = at if at is None else at - timedelta(seconds=counts[2] or 0.0)
        request = Request(stamp=_written(came))
    request.is_answered = True
    if counts[0] is not None:
        request.input.tokens = int(counts[0])
    if counts[1] is not None:
        request.output.tokens = int(counts[1])
    finish = re.search(r"'finish_reason': (?:\{'type': )?'(\w+)'", meta)
    request.finish = None if finish is None else finish[1]
    return request


def _number(text: str, key: str) -> float | None:
    found = re.search(rf"'{key}': (\d+(?:\.\d+)?)", text)
    return None if found is None else float(found[1])


def _missing_vllm(requests: Sequence[Request]) -> str | None:
    if not requests:
        return (
            "without requests; its server writes them with"
            " --enable-log-requests --enable-log-outputs and VLLM_LOGGING_LEVEL=DEBUG"
        )
    if not any(r.is_begun for r in requests):
        return (
            "that tells answers, but not when requests came nor their prompts;"
            " its server writes them with --enable-log-requests and VLLM_LOGGING_LEVEL=DEBUG"
        )
    if not any(r.is_answered for r in requests):
        return (
            "that tells no output tokens; its server writes them with"
            " --enable-log-outputs beside --enable-log-requests"
        )
    if not any(r.input.is_told for r in requests):
        return "that tells no prompts; its server writes them with VLLM_LOGGING_LEVEL=DEBUG"
    if not any(r.output.is_told for r in requests):
        return "that tells no output tokens; its server writes them with VLLM_LOGGING_LEVEL=DEBUG"
    return None


def _missing_sglang(requests: Sequence[Request]) -> str | None:
    if any(r.is_answered for r in requests):
        return None
    return "without finished requests; its server writes them with --log-requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogForm:
    """How one server writes of requests.

    `bare` finds lines that are about no request. `read` takes a line (what it says, the rest, its date) into
    the requests that have begun and returns the one that it ends. `missing` says what a log lacks and how the
    server is made to write it.
    """

    title: str
    bare: re.Pattern[str]
    read: Callable[[str, str, datetime | None, dict[str, Request]], Request | None]
    missing: Callable[[Sequence[Request]], str | None]


_VLLM = LogForm(title="vLLM", bare=_BARE_VLLM, read=_read_vllm, missing=_missing_vllm)
_SGLANG = LogForm(title="SGLang", bare=_BARE_SGLANG, read=_read_sglang, missing=_missing_sglang)


def log_form(text: str) -> LogForm | None:
    """Return whose log a text is the beginning of, None for no server's."""
    for line in text.split("\n"):
        event = EVENT.match(line)
        if event is not None:
            return _SGLANG if ": obj=" in event["what"] else _VLLM
    return next((form for form in (_VLLM, _SGLANG) if form.bare.search(text)), None)
