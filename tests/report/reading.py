"""Read a report as a browser does, and say what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element

import html5lib

HTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
FETCHING = {
    "src",
    "href",
    "srcset",
    "action",
    "data",
    "poster",
    "background",
    "{http://www.w3.org/1999/xlink}href",
}


def parsed(html: str) -> Element:
    """The document; the parser's strict mode takes only what it need not mend."""
    parser = html5lib.HTMLParser(strict=True)
    document: Element = parser.parse(html)
    return document


def numbers_in(document: Element) -> set[float]:
    """Every number that stands in the document as it is in its source."""
    return {
        float(str(element.get("value")))
        for element in document.iter(f"{HTML}data")
        if _is_number(str(element.get("value")))
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def numbers_of(value: Any) -> Iterator[float]:
    """Every number of a JSON value, whatever holds it."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers_of(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def text_of(document: Element) -> str:
    """All words."""
    return " ".join("".join(document.itertext()).split())


def check_inert(document: Element) -> None:
    """Nothing is fetched, nothing runs: no script, no event, no address."""
    for element in document.iter():
        name = str(element.tag).rpartition("}")[2]
        assert name not in {"script", "iframe", "object", "embed", "link", "img", "base", "form"}, (
            name
        )
        for key, value in element.attrib.items():
            assert not key.startswith("on"), key
            if key in FETCHING:
                assert value.startswith("#"), value
            assert "javascript:" not in value and "url(http" not in value
        if name == "style":
            assert "@import" not in "".join(element.itertext()) and "url(" not in "".join(
                element.itertext()
            )
