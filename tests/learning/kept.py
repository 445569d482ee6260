"""Prometheus's HTTP API over loopback, as far as its documentation says and no further, over samples at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from melange_sky.learning import Scrape
from tests.learning.pages import page_of
from tests.loopback import answering

Series = dict[tuple[tuple[str, str], ...], list[tuple[float, str]]]
_LINE = re.compile(r"(\S+?)\{(.*)\} (\S+)")


def series_of(looks: Iterable[Scrape], labels: Mapping[str, str], model: str = "m") -> Series:
    """Return a server's looks as a Prometheus keeps them: one list of (time, value) per set of labels."""
    found: Series = {}
    for look in looks:
        for name, inner, value in _LINE.findall(page_of(look, model)):
            own = dict(re.findall(r'(\w+)="([^"]*)"', inner))
            key = tuple(sorted({"__name__": name, **own, **labels}.items()))
            found.setdefault(key, []).append((look.time_s, value))
    return found


def answer(series: Series, query: str, at_s: float) -> dict[str, Any]:
    """Return the `data` of an instant query: `time()`, a count by model, or a range selector."""
    if query == "time()":
        return {"resultType": "scalar", "result": [at_s, str(at_s)]}
    inner, seconds = re.findall(r"\{(.*)\}\[(\d+)s\]", query)[0]
    wanted = dict(re.findall(r'(\w+)="([^"]*)"', inner))
    names = re.findall(r'__name__=~"([^"]*)"', inner) or re.findall(r"\((vllm:\w+)\{", query)
    rows = []
    for key, pairs in series.items():
        labels = dict(key)
        same = re.fullmatch(names[0], labels["__name__"]) and wanted.items() <= labels.items()
        kept = [pair for pair in pairs if at_s - float(seconds) <= pair[0] <= at_s]
        if same and kept:
            rows.append({"metric": labels, "values": kept})
    if query.startswith("count by"):
        models = sorted({row["metric"]["model_name"] for row in rows})
        result = [{"metric": {"model_name": m}, "value": [at_s, "1"]} for m in models]
        return {"resultType": "vector", "result": result}
    return {"resultType": "matrix", "result": rows}


def prometheus(
    series: Series, now_s: float, *, token: str | None = None, warning: str | None = None
) -> AbstractContextManager[str]:
    """Serve the API with samples."""

    def said(request: BaseHTTPRequestHandler) -> tuple[int, bytes]:
        asked = {key: values[0] for key, values in parse_qs(urlsplit(request.path).query).items()}
        if token is not None and request.headers.get("Authorization") != token:
            return 401, b"Unauthorized\n"
        at_s = float(asked.get("time", now_s))
        found = {"status": "success", "data": answer(series, asked["query"], at_s)}
        if warning is not None:
            found["warnings"] = [warning]
        return 200, json.dumps(found).encode()

    return answering(said)


def saying(body: bytes, status: int = 200) -> AbstractContextManager[str]:
    """Serve the same bytes whatever is asked."""
    return answering(lambda _: (status, body))
