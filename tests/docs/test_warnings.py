"""Every code of a plan's warnings is documented, and nothing that is none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import melange_sky
from melange_sky.help.texts import FOLDER, field_texts
from melange_sky.resources import catalogs_dir

ROOMS = ("planner", "pricing", "optimizer", "profiles")


def codes_in(tree: ast.AST) -> Iterator[str]:
    """Yield the codes that a module's warnings are made with."""
    for node in ast.walk(tree):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") != "Fault":  # of a look
            values = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            if isinstance(node.func, ast.Attribute) and node.func.attr == "warn":
                values += node.args[:1]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            values = [node.value] if names == ["CODE"] else []
        for value in values:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def test_every_code_is_documented() -> None:
    package = Path(melange_sky.__file__).parent
    used: set[str] = set()
    for room in ROOMS:
        for file in sorted((package / room).rglob("*.py")):
            used |= set(codes_in(ast.parse(file.read_text(encoding="utf-8"))))
    rules = (catalogs_dir() / "README.md").read_text(encoding="utf-8")
    used = {code for code in used if f"| `{code}` |" not in rules} | {"no-region"}
    known = set(field_texts("warnings"))
    file_ = FOLDER / "warnings.yaml"
    assert not used - known, f"add to {file_}: {', '.join(sorted(used - known))}"
    assert not known - used, f"{file_} documents no code: {', '.join(sorted(known - used))}"
