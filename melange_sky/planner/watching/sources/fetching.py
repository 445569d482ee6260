"""One page over HTTP: its text, or why it was not to be had."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from urllib.parse import urlsplit

from melange_sky.errors import InputError

ANSWER_S = 5.0
_MOST_BYTES = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What came: `text`, or None and in `why` the reason in a few words."""

    text: str | None
    why: str = ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def metrics_url(url: str, flag: str) -> str:
    """Return where a server's metrics are. Raises InputError, naming the flag, for what is no address."""
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        )
        _ = parts.port
    except ValueError:
        good = False
    if not good or not url.isprintable() or " " in url:
        raise InputError(f"{flag}: '{url[:100]}' is not http://HOST[:PORT]")
    return re.sub(r"(/metrics)?/*$", "", url) + "/metrics"


def fetch(url: str, key: str | None) -> Page:
    """Return a page within a few seconds; redirects are not followed, so that the key goes nowhere else."""
    request = urllib.request.Request(url)
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=ANSWER_S) as response:
            return Page(text=response.read(_MOST_BYTES).decode("utf-8", errors="replace"))
    except urllib.error.HTTPError as error:
        with error:
            return Page(text=None, why=f"HTTP {error.code}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Page(text=None, why=" ".join(str(reason).split())[:160] or type(error).__name__)
