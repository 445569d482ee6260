"""The pages: `pages/*.md`, with the references that they ask for put in."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from melange_sky.errors import InputError, did_you_mean
from melange_sky.help.reference import Style, entries_with, reference
from melange_sky.resources import catalogs_dir, profiling_dir

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
    "accuracy": "How far off estimates are, run by run; the format of measured tables.",
    "price-rules": "The rules that every price passes, and the files that ship.",
    "reserve": "Reserve the base, rent the peak: demand, terms, scenarios, reserve.json.",
    "watch": "A fleet that follows its traffic: decisions, guard rails, the journal, backtests.",
    "operate": "Launch a plan, put one endpoint over it, change it while it serves.",
    "plugin": "Fleets in SkyPilot's dashboard, gauges, and a guard on launches.",
    "affinity": "Chats and agents stay at the replica that has their history cached.",
    "haproxy": "HAProxy in place of the gateway: what it does, and what it cannot.",
    "report": "One HTML file of a result, and pictures: what they show, how to make them.",
    "files": "Exit codes, environment variables, and what is stored where.",
    "setup": "Install, shell completion, use from Python.",
}
"""Page → what it holds, in the order in which they are listed."""

_ELSEWHERE = {"accuracy": profiling_dir, "price-rules": catalogs_dir}
"""Pages that stand beside what they describe: the README.md of its folder."""

_REFERENCE = re.compile(r"^<!-- reference: (\S+) (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\(([\w-]+)\.md(?:#[\w-]+)?\)")


def topics() -> dict[str, str]:
    """Return every topic and its one line."""
    return TOPICS


def page_text(topic: str, style: Style) -> str:
    """Return a page as Markdown; InputError, with the topics, for one that is not there."""
    text = _source(topic)
    text = _REFERENCE.sub(lambda found: reference(found[1], found[2], style), text)
    return text if style is Style.SITE else _LINK.sub(_told_link, text)


def entries_text(topic: str, word: str) -> str:
    """Return what a page's references say of the keys and fields that a word is part of, as Markdown.

    InputError where there are none.
    """
    documents = dict.fromkeys(found[1] for found in _REFERENCE.finditer(_source(topic)))
    parts = {name: entries_with(name, word) for name in documents}
    found = [f"## {name}\n\n{text}" for name, text in parts.items() if text]
    if not found:
        hint = "" if documents else ", which lists no keys"
        raise InputError(f"nothing named '{word}' on the page '{topic}'{hint}")
    return "\n".join(found)


def _source(topic: str) -> str:
    if topic not in TOPICS:
        hint = did_you_mean(topic, TOPICS)
        raise InputError(f"no help on '{topic}'{hint}; topics: {', '.join(TOPICS)}")
    log.info("help on %s", topic)
    beside = _ELSEWHERE.get(topic)
    path = FOLDER / f"{topic}.md" if beside is None else beside() / "README.md"
    return path.read_text(encoding="utf-8")


def _told_link(link: re.Match[str]) -> str:
    """Say where a link leads: a terminal cannot follow it."""
    text, topic = link.groups()
    if topic not in TOPICS:
        return text
    return f"{text} (`help {topic}`)"
