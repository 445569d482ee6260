"""YAML text to plain values with the line of every key, safe against hostile input.

The document is built here from libyaml's event stream rather than by PyYAML's composer, so that
nesting, aliases and size are bounded while reading: a bomb is refused before it grows, a self
reference before it is followed, and a repeated key is told instead of silently winning.
JSON is read the same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from melange_sky.errors import InputError, clip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 100_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEAN = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.?inf|\.?Inf|Infinity|\.?nan|\.?NaN)\Z"
)


@dataclass(slots=True)
class Document:
    """A read document: its plain value, the line (from 1) of each key path, and repeated keys."""

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[KeyPath, int, str]] = field(default_factory=list)

    def line(self, path: KeyPath) -> int | None:
        """Return the line of `path`, or of its nearest parent that has one."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None


@dataclass(slots=True)
class _Node:
    """A value; `size` counts all in it, `depth` the levels of lists and mappings, its own included."""

    kind: str
    line: int
    value: Any = None
    size: int = 1
    depth: int = 0
    open: bool = True

    def add(self, child: _Node) -> None:
        """Append a child; an open one is counted when it closes."""
        self.value.append(child)
        if not child.open:
            self.count(child)

    def count(self, child: _Node) -> None:
        """Add what a complete child holds: its values, and the levels that it nests."""
        self.size += child.size
        self.depth = max(self.depth, child.depth + 1)

    def close(self, parent: list[_Node]) -> None:
        """Note that all children are there."""
        self.open = False
        for node in parent:
            node.count(self)


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Read a small UTF-8 file; anything else raises InputError with the reason."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder where a file is expected") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # a NUL, or half of a surrogate pair
        raise InputError(f"{clip(str(path), 200)}: is not a possible file name") from None
    if len(data) > max_bytes:
        raise InputError(f"{path}: larger than {max_bytes >> 10} KiB, too large for a spec")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text") from None


def parse(text: str, path: Path) -> Document:
    """Build a document from YAML or JSON text.

    Raises InputError for a syntax error, a tag, a self reference, or a size beyond the bounds.
    """
    builder = _Builder(path)
    try:
        root = builder.build(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise InputError(_syntax(error, path)) from None
    document = Document(None)
    document.value = _expand(root, (), document)
    return document


def _syntax(error: yaml.YAMLError, path: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    what = clip(str(getattr(error, "problem", None) or getattr(error, "reason", "")), 120)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    if "nesting depth" in what:
        # Newer libyaml has a bound of its own, and scans ahead of the builder that has ours.
        return f"{where}: nested deeper than {MAX_DEPTH} levels"
    return f"{where}: not valid YAML{': ' + what if what else ''}"


class _Builder:
    """Turns YAML events into nodes. An alias is its anchored node itself, counted with its size and depth."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.anchors: dict[str, _Node] = {}
        self.total = 0

    def build(self, events: Iterator[Any]) -> _Node:
        root: _Node | None = None
        stack: list[_Node] = []
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                raise self.refuse(event, "holds more than one document")
            if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                stack.pop().close(stack[-1:])
                continue
            made = self.node(event)
            if made is None:
                continue
            if stack:
                stack[-1].add(made)
            else:
                root = made
            if made.open:
                stack.append(made)
            if len(stack) + (0 if made.open else made.depth) > MAX_DEPTH:
                raise self.refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if root is None:
            raise InputError(f"{self.path}: is empty")
        return root

    def node(self, event: Any) -> _Node | None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            name = str(event.anchor)
            target = self.anchors.get(name)
            if target is None:
                raise self.refuse(event, f"alias '*{clip(name)}' has no anchor before it")
            if target.open:
                raise self.refuse(event, f"alias '*{clip(name)}' refers to itself")
            self.count(event, target.size)
            return target
        if isinstance(event, yaml.ScalarEvent):
            self.count(event, 1)
            value = _scalar(event.value) if event.implicit[0] else event.value
            made = _Node("scalar", line, value, open=False)
        elif isinstance(event, yaml.MappingStartEvent):
            made = _Node("mapping", line, [], depth=1)
        elif isinstance(event, yaml.SequenceStartEvent):
            made = _Node("sequence", line, [], depth=1)
        else:
            return None
        if event.tag is not None and not event.tag.startswith("tag:yaml.org,2002:str"):
            raise self.refuse(event, "tags are not supported")
        if event.anchor:
            self.anchors[event.anchor] = made
        return made

    def count(self, event: Any, size: int) -> None:
        self.total += size
        if self.total > MAX_VALUES:
            raise self.refuse(event, f"more than {MAX_VALUES} values with aliases expanded")

    def refuse(self, event: Any, why: str) -> InputError:
        return InputError(f"{self.path}:{event.start_mark.line + 1}: {why}")


def _scalar(text: str) -> Any:
    if text in _NULL:
        return None
    if text.lower() in _BOOLEAN:
        return _BOOLEAN[text.lower()]
    if _INTEGER.match(text):
        return int(text) if len(text) <= 18 else float(text[:400])
    if _FLOAT.match(text) and len(text) <= 400:
        lowered = text.lower().lstrip(".")
        sign = "-" if lowered.startswith("-") else ""
        if "inf" in lowered or "nan" in lowered:
            return float(sign + ("inf" if "inf" in lowered else "nan"))
        return float(text)
    return text


def _expand(node: _Node, path: KeyPath, document: Document) -> Any:
    document.lines.setdefault(path, node.line)
    if node.kind == "scalar":
        return node.value
    if node.kind == "sequence":
        return [_expand(item, (*path, i), document) for i, item in enumerate(node.value)]
    mapping: dict[str, Any] = {}
    for key, value in zip(node.value[::2], node.value[1::2], strict=True):
        if key.kind != "scalar" or isinstance(key.value, float):
            document.problems.append((path, key.line, "a key must be plain text"))
            continue
        name = key.value if isinstance(key.value, str) else _key_text(key.value)
        here = (*path, name)
        if name in mapping:
            document.problems.append((here, key.line, "is given twice"))
            continue
        document.lines[here] = key.line
        mapping[name] = _expand(value, here, document)
    return mapping


def _key_text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower()
