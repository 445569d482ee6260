"""What Matplotlib writes, made fit for a page: one element, short, no ids that clash, colours by theme."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from melange_sky.report.figures.style import NAMES

SVG = "http://www.w3.org/2000/svg"
XLINK = "{http://www.w3.org/1999/xlink}href"
FONT = "DejaVu Sans, Verdana, sans-serif"
"""Charts are measured in the first; the others are no wider."""

_USED = re.compile(r"url\(#([^)]+)\)")
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_SIZE = re.compile(r"^(?:(bold|700) )?([\d.]+px)")
_COORDINATES = frozenset({"d", "x", "y", "width", "height", "transform", "points", "viewBox"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a reader who does not see the chart is told."""

    title: str
    description: str


def tidy(raw: str, name: str, words: Words) -> str:
    """Return Matplotlib's SVG as one element without a header; `name` begins its ids."""
    root = ET.fromstring(raw)
    for parent in root.iter():
        for child in list(parent):
            if child.tag in {f"{{{SVG}}}style", f"{{{SVG}}}metadata"}:
                parent.remove(child)
    ids = _new_ids(root, name)
    for element in root.iter():
        _shorten(element, ids)
    _describe(root, name, words)
    ET.register_namespace("", SVG)
    text = ET.tostring(root, encoding="unicode")
    return re.sub(r">\s+<", "><", text)


def _new_ids(root: ET.Element, name: str) -> dict[str, str]:
    """Return a short id for each element that another one names."""
    used: dict[str, str] = {}
    for element in root.iter():
        for value in element.attrib.values():
            for old in _USED.findall(value):
                used.setdefault(old, f"{name}-{len(used) + 1}")
        if element.get(XLINK, "").startswith("#"):
            used.setdefault(element.attrib[XLINK][1:], f"{name}-{len(used) + 1}")
    return used


def _shorten(element: ET.Element, ids: dict[str, str]) -> None:
    held = dict(element.attrib)
    element.attrib.clear()
    for key, value in held.items():
        text = _USED.sub(lambda found: f"url(#{ids[found[1]]})", value)
        if key == "id":
            if value in ids:
                element.set("id", ids[value])
        elif key == "style":
            _set_style(element, text)
        elif key == XLINK:
            element.set("href", f"#{ids[text[1:]]}")
        elif key in {"fill", "stroke"}:
            element.set("style", f"{key}:{_themed(text)}")
        elif key in _COORDINATES:
            element.set(key, _NUMBER.sub(_rounded, text).replace("\n", "").strip())
        else:
            element.set(key, text)


def _set_style(element: ET.Element, style: str) -> None:
    kept = []
    for declaration in style.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = _SIZE.match(value)
            assert size is not None, value
            kept.append(f"font-size:{size[2]}")
            if size[1]:
                kept.append("font-weight:bold")
        elif key:
            kept.append(f"{key}:{_themed(value) if key in {'fill', 'stroke'} else value}")
    element.set("style", ";".join(kept))


def _themed(colour: str) -> str:
    name = NAMES.get(colour)
    return colour if name is None else f"var({name},{colour})"


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")


def _describe(root: ET.Element, name: str, words: Words) -> None:
    _, _, width, height = root.attrib["viewBox"].split()
    root.attrib.clear()
    root.attrib.update(
        {
            "viewBox": f"0 0 {width} {height}",
            "width": width,
            "height": height,
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-desc",
            "style": f"font-family:{FONT};stroke-linejoin:round",
        }
    )
    for place, (tag, text) in enumerate((("title", words.title), ("desc", words.description))):
        element = ET.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
