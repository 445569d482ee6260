"""The pages: `pages/*.md`, with the references that they ask for put in."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from melange_sky.errors import InputError, did_you_mean
from melange_sky.help.reference import Style, reference

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parent / "pages"

TOPICS = {
    "concepts": "The words and numbers: bucket, option, headroom, attainment, band, origin, …",
    "spec": "Every key of a spec: type, unit, default, example.",
    "trace": "What logs of requests are read, and what is made of them.",
    "offers": "Where prices come from, and how to bring your own.",
    "plan-json": "Every field of plan.json.",
    "json": "The JSON of the other commands, field by field.",
    "estimates": "How capacities are estimated, how far to trust them, how to measure.",
    "operate": "Launch a plan, put one endpoint over it, change it while it serves.",
    "files": "Exit codes, environment variables, and what is stored where.",
    "setup": "Install, shell completion, use from Python.",
}
"""Page → what it holds, in the order in which they are listed."""

_REFERENCE = re.compile(r"^<!-- reference: (\S+) (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\(([\w-]+)\.md(?:#[\w-]+)?\)")


def topics() -> dict[str, str]:
    """Return every topic and its one line."""
    return TOPICS


def page_text(topic: str, style: Style) -> str:
    """Return a page as Markdown; InputError, with the topics, for one that is not there."""
    if topic not in TOPICS:
        hint = did_you_mean(topic, TOPICS)
        raise InputError(f"no help on '{topic}'{hint}; topics: {', '.join(TOPICS)}")
    log.info("help on %s", topic)
    text = (FOLDER / f"{topic}.md").read_text(encoding="utf-8")
    text = _REFERENCE.sub(lambda found: reference(found[1], found[2], style), text)
    return text if style is Style.SITE else _LINK.sub(_told_link, text)


def _told_link(link: re.Match[str]) -> str:
    """Say where a link leads: a terminal cannot follow it."""
    text, topic = link.groups()
    if topic not in TOPICS:
        return text
    return f"{text} (`help {topic}`)"
