"""What `import melange_sky` offers: everything, lazily, under names that no module takes away."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import melange_sky
from melange_sky import sdk
from tests.machine import slowness

ROOT = Path(melange_sky.__file__).parent
HEAVY = ("numpy", "pydantic", "pydantic_core", "pulp", "highspy", "sky", "rich", "click", "yaml")
TIMED = "import time; t = time.process_time(); import melange_sky; print(time.process_time() - t)"


def module_names() -> list[str]:
    """Every module of the package but `__main__`, whose import runs the command line."""
    found = pkgutil.walk_packages(melange_sky.__path__, "melange_sky.")
    return [info.name for info in found if not info.name.endswith("__main__")]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT.parent,
    )
    return done.stdout


def test_the_import_is_quick_and_loads_nothing_heavy() -> None:
    assert min(float(run(TIMED)) for _ in range(5)) < 0.05 * slowness()
    loaded = run("import sys, melange_sky; print(*sorted(sys.modules))").split()
    assert [name for name in loaded if name.partition(".")[0] in HEAVY] == []
    ours = [name for name in loaded if name.startswith("melange_sky")]
    assert ours == [
        "melange_sky",
        *(f"melange_sky.{part}" for part in ("exports", "sdk", "version")),
    ]


def test_the_names_stand_in_dir_for_type_checkers_and_in_sky_melange_alike() -> None:
    assert melange_sky.__all__ == sdk.__all__ == sorted(sdk.__all__)
    for module in (melange_sky, sdk):
        assert set(sdk.__all__) <= set(dir(module))
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        checked = [node for node in tree.body if isinstance(node, ast.If)]
        imported = [
            alias.name
            for block in checked
            for node in block.body
            if isinstance(node, ast.ImportFrom) and "sdk" in str(node.module)
            for alias in node.names
        ]
        assert sorted(imported) == sdk.__all__


@pytest.mark.parametrize("module", [melange_sky, sdk])
def test_another_name_is_an_attribute_error(module: types.ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'plna'"):
        module.plna  # noqa: B018


def test_no_module_takes_a_functions_name_once_all_are_imported() -> None:
    for name in module_names():
        importlib.import_module(name)
    for module in (melange_sky, sdk):
        for name in module.__all__:
            assert isinstance(getattr(module, name), types.FunctionType), name
    for name in ["melange_sky", *module_names()]:
        package = sys.modules[name]
        if hasattr(package, "__path__"):
            submodules = {info.name for info in pkgutil.iter_modules(package.__path__)}
            exported = getattr(package, "__all__", ())
            assert not {n for n in exported if n in submodules}, name


@pytest.mark.parametrize("name", sdk.__all__)
def test_signatures_are_explicit_and_docstrings_name_every_argument(name: str) -> None:
    function = getattr(melange_sky, name)
    text = inspect.getdoc(function)
    assert text is not None and "Returns:" in text
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    for parameter in inspect.signature(function).parameters.values():
        assert f"\n    {parameter.name}: " in text, parameter.name
        assert parameter.annotation is not inspect.Parameter.empty
