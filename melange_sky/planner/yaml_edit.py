"""Add lines to somebody else's YAML and take them back: every other byte stays. Pure: text in, text out.

No library writes YAML without touching quotes, breaks or spaces somewhere; so lines are put in and taken out as
text, at the places that the parser names, and the parser then judges the result: what it reads must be what
was meant, and taking back must give the text from before, else nothing is changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from melange_sky.errors import InputError

BEGIN = "# >>> melange-sky plugin: `melange-sky plugin remove` takes these lines back"
END = "# <<< melange-sky plugin"
_WAS = "# was: "


class YamlText:
    """A YAML file's text with what it says. Raises InputError where it is no mapping that can be read."""

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where = text, where
        try:
            self.root = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = "" if mark is None else f", line {mark.line + 1}"
            raise InputError(f"{where}{line}: is not YAML that can be read") from None
        self.data: dict[str, Any] = {} if data is None else data
        if not isinstance(self.data, dict):
            raise InputError(f"{where}: must be a mapping of keys, as SkyPilot has it")

    def value(self, *path: str) -> yaml.Node | None:
        """Return the node under a path of keys, None where it is not there."""
        node = self.root
        for key in path:
            pair = _pair(node, key)
            if pair is None:
                return None
            node = pair[1]
        return node

    def key(self, *path: str) -> yaml.Node | None:
        """Return the node of the last key of a path, None where it is not there."""
        pair = _pair(self.value(*path[:-1]), path[-1])
        return None if pair is None else pair[0]


def add_item(text: str, where: str, key: str, item: Mapping[str, Any]) -> str:
    """Return the text with one more item in front of the list under a top-level key."""
    known = YamlText(text, where)
    listed = known.data.get(key) or []
    if not isinstance(listed, list):
        raise InputError(f"{where}: '{key}' must be a list")
    node = known.value(key)
    if node is None:
        changed = _with_key(known, (), key, [dict(item)])
    elif isinstance(node, yaml.SequenceNode) and node.flow_style:
        changed = _put_first(text, node, node.value, json.dumps(item))
    else:
        indent = node.start_mark.column if node.value else 0
        changed = _below(known, (key,), _lines([dict(item)], indent))
    wanted = {**known.data, key: [dict(item), *listed]}
    return _checked(known, changed, wanted)


def add_key(text: str, where: str, path: tuple[str, ...], value: object) -> str:
    """Return the text with a value under a path of keys that is not there; what is there stays."""
    known = YamlText(text, where)
    depth = len(path) - 1
    while depth and known.value(*path[:depth]) is None:
        depth -= 1
    inner: object = value
    for key in reversed(path[depth + 1 :]):
        inner = {key: inner}
    changed = _with_key(known, path[:depth], path[depth], inner)
    return _checked(known, changed, _set(known.data, path, value))


def replace_value(text: str, where: str, key: str, value: str) -> str:
    """Return the text with another value under a top-level key; the line from before stays as a comment."""
    known = YamlText(text, where)
    name, node = known.key(key), known.value(key)
    if name is None or node is None:
        raise InputError(f"{where}: '{key}' is not there")
    if isinstance(known.root, yaml.MappingNode) and known.root.flow_style:
        return with_value(text, where, key, value)
    lines = text.splitlines(keepends=True)
    first = name.start_mark.line
    if node.end_mark.line != first:
        raise _cannot(where, f"'{key}' stands on several lines")
    old = lines[first]
    new = [BEGIN, _WAS + old.rstrip("\r\n"), f"{key}: {value}", END]
    lines[first] = "".join(f"{line}\n" for line in new)
    if not old.endswith("\n"):
        lines[first] = lines[first][:-1]
    return _checked(known, "".join(lines), {**known.data, key: value})


def taken_back(text: str) -> str:
    """Return the text without the lines that this module put in; the ones that they replaced are back."""
    kept: list[str] = []
    within: list[str] | None = None
    ends_open = False
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if within is None and bare == BEGIN:
            within = []
        elif within is not None and bare == END:
            kept += [was.lstrip()[len(_WAS) :] for was in within if was.lstrip().startswith(_WAS)]
            within, ends_open = None, not line.endswith("\n")
        elif within is None:
            kept.append(line)
        else:
            within.append(line)
    if within is not None:  # the end is gone: whose the rest is nobody knows
        return text
    found = "".join(kept)
    return found.removesuffix("\n").removesuffix("\r") if ends_open else found


def with_value(text: str, where: str, key: str, value: str) -> str:
    """Return the text with another text under a top-level key, in its place, whatever the file's form."""
    known = YamlText(text, where)
    node = known.value(key)
    assert node is not None
    start, end = node.start_mark.index, node.end_mark.index
    changed = text[:start] + json.dumps(value) + text[end:]
    return _checked(known, changed, {**known.data, key: value}, reversible=False)


def without_item(text: str, where: str, key: str, position: int) -> str:
    """Return the text without one item of a list, its comments included; without the key where none is left."""
    known = YamlText(text, where)
    node = known.value(key)
    assert isinstance(node, yaml.SequenceNode)
    if len(node.value) == 1 and (known.root.flow_style or not node.flow_style):  # type: ignore[union-attr]
        return without_key(text, where, (key,))
    changed = _cut(text, node, [(item, item) for item in node.value], position)
    left = [item for i, item in enumerate(known.data[key]) if i != position]
    return _checked(known, changed, {**known.data, key: left}, reversible=False)


def without_key(text: str, where: str, path: tuple[str, ...]) -> str:
    """Return the text without a key and its comments; keys above it that then hold nothing go too."""
    known = YamlText(text, where)
    while len(path) > 1 and len(known.value(*path[:-1]).value) == 1:  # type: ignore[union-attr]
        path = path[:-1]
    node = known.value(*path[:-1])
    assert isinstance(node, yaml.MappingNode)
    position = next(i for i, pair in enumerate(node.value) if pair[0].value == path[-1])
    changed = _cut(text, node, node.value, position)
    return _checked(known, changed, _unset(known.data, path), reversible=False)


def _cut(
    text: str, node: yaml.CollectionNode, parts: list[tuple[yaml.Node, yaml.Node]], position: int
) -> str:
    """Return the text without one part of a collection; each part is its first and its last node."""
    first, last = parts[position]
    rest = parts[position + 1 :]
    if node.flow_style:
        start, end = first.start_mark.index, last.end_mark.index
        if rest:
            end = rest[0][0].start_mark.index
        elif position:
            start = parts[position - 1][1].end_mark.index
        return text[:start] + text[end:]
    lines = text.splitlines(keepends=True)
    stop = rest[0][0].start_mark.line if rest else _last_line(last) + 1
    return "".join(lines[: first.start_mark.line] + lines[stop:])


def _with_key(known: YamlText, parent: tuple[str, ...], key: str, value: object) -> str:
    """Return the text with a key that is not there, in front of its siblings; at the top, after them."""
    node = known.root if not parent else known.value(*parent)
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        pair = f"{json.dumps(key)}: {json.dumps(value)}"
        return _put_first(known.text, node, [name for name, _ in node.value], pair)
    if parent:
        column = (
            node.start_mark.column if isinstance(node, yaml.MappingNode) and node.value else None
        )
        name = known.key(*parent)
        assert name is not None
        indent = name.start_mark.column + 2 if column is None else column
        return _below(known, parent, _lines({key: value}, indent))
    block = "".join(f"{line}\n" for line in _lines({key: value}, 0))
    if known.text and not known.text.endswith("\n"):
        return f"{known.text}\n{block}"[:-1]
    return known.text + block


def _below(known: YamlText, path: tuple[str, ...], block: list[str]) -> str:
    """Return the text with lines right below the line of a key."""
    name = known.key(*path)
    assert name is not None
    lines = known.text.splitlines(keepends=True)
    at = name.start_mark.line + 1
    if at == len(lines) and not lines[-1].endswith("\n"):
        return f"{known.text}\n" + "\n".join(block)
    return "".join([*lines[:at], *(f"{line}\n" for line in block), *lines[at:]])


def _lines(value: object, indent: int) -> list[str]:
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=False, width=10_000)
    return [" " * indent + line for line in (BEGIN, *text.splitlines(), END)]


def _put_first(text: str, node: yaml.Node, parts: list[yaml.Node], more: str) -> str:
    """Return the text with one more part in front of those of a collection in brackets."""
    if parts:
        at, more = parts[0].start_mark.index, f"{more}, "
    else:
        at = node.start_mark.index + 1
    return text[:at] + more + text[at:]


def _pair(node: yaml.Node | None, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((pair for pair in node.value if pair[0].value == key), None)


def _last_line(node: yaml.Node) -> int:
    """Return the last line of a block node: its own end mark may stand behind comments and blank lines."""
    if isinstance(node, yaml.MappingNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style:
        return _last_line(node.value[-1])
    return int(node.end_mark.line)


def _set(data: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    inner = data.get(head)
    below = inner if isinstance(inner, Mapping) else {}
    return {**data, head: _set(below, rest, value) if rest else value}


def _unset(data: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    if not rest:
        return {key: value for key, value in data.items() if key != head}
    return {**data, head: _unset(data[head], rest)}


def _checked(
    known: YamlText, changed: str, wanted: Mapping[str, Any], *, reversible: bool = True
) -> str:
    """Return the changed text where it says what was meant and can be taken back; else InputError."""
    try:
        says = yaml.safe_load(changed) or {}
    except yaml.YAMLError:
        says = None
    if says != dict(wanted):
        raise _cannot(known.where, "its form leaves no place for more lines")
    in_lines = BEGIN in changed and BEGIN not in known.text
    if reversible and in_lines and taken_back(changed) != known.text:
        raise _cannot(known.where, "the change could not be taken back")
    return changed


def _cannot(where: str, why: str) -> InputError:
    return InputError(
        f"{where}: cannot be changed without touching other lines ({why}); `melange-sky help plugin` says what "
        "to write there by hand"
    )
