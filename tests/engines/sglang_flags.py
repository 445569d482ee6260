"""List the command-line flags of an SGLang release, read from the source in its wheel.

    pip download --no-deps sglang==0.5.23 && python -m tests.engines.sglang_flags sglang-0.5.23-*.whl

Nothing of SGLang is imported: its parser is built from annotated fields, which are read as text. Writes
`sglang_flags.json` beside this file: each flag's names and how many values it takes.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

OUTPUT = Path(__file__).with_suffix(".json")


def _constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _strings(node: ast.expr | None) -> list[str]:
    return [str(_constant(item)) for item in node.elts] if isinstance(node, ast.List) else []


def _field_flag(field: ast.AnnAssign) -> dict[str, object] | None:
    """Return the flag of one annotated field, None for a field without one."""
    assert isinstance(field.target, ast.Name) and isinstance(field.annotation, ast.Subscript)
    kind, *extra = field.annotation.slice.elts  # type: ignore[attr-defined]
    told = {}
    for node in extra:
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Arg":
            told = {word.arg: word.value for word in node.keywords}
    if _constant(told.get("no_cli")):
        return None
    name = str(_constant(told.get("cli_name")) or "--" + field.target.id.replace("_", "-"))
    text = ast.unparse(kind)
    plain_list = "List[" in text and "type_parser" not in told
    values = _constant(told.get("nargs")) or ("+" if plain_list else 1)
    if text == "bool" or "BooleanOptionalAction" in ast.unparse(field.annotation):
        values = 0
    return {"names": [name, *_strings(told.get("aliases"))], "values": values}


def _flags(fields: str) -> Iterator[dict[str, object]]:
    for node in ast.walk(ast.parse(fields)):
        annotated = isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Subscript)
        if annotated and getattr(node.annotation.value, "id", "") == "A":
            flag = _field_flag(node)
            if flag is not None:
                yield flag


def _direct_flags(server_args: str) -> Iterator[dict[str, object]]:
    """Yield the flags that are added by hand."""
    for node in ast.walk(ast.parse(server_args)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            names = [str(_constant(word)) for word in node.args]
            told = {word.arg: ast.unparse(word.value) for word in node.keywords}
            takes_none = "StoreTrue" in told.get("action", "") or "store_true" in told.get(
                "action", ""
            )
            yield {"names": names, "values": 0 if takes_none else 1}


def main(wheel: str) -> None:
    """Write the flags of a wheel."""
    flags: list[dict[str, object]] = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("sglang/srt/arg_groups/fields/") and name.endswith(".py"):
                flags += _flags(archive.read(name).decode())
        flags += _direct_flags(archive.read("sglang/srt/server_args.py").decode())
    rows = ",\n".join(f"  {json.dumps(flag)}" for flag in flags)
    document = f'{{\n "wheel": "{Path(wheel).name}",\n "flags": [\n{rows}\n ]\n}}\n'
    OUTPUT.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
