"""What ships, and what the command line promises about itself."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from melange_sky import errors
from melange_sky.cli import cli
from tests import readme

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("templates", "catalogs", "profiling")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "melange_sky", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )


def test_exit_codes_are_distinct_and_in_the_readme() -> None:
    kinds = [
        errors.InputError,
        errors.InfeasibleError,
        errors.SourceUnavailableError,
        errors.SloMissedError,
    ]
    assert [kind.exit_code for kind in kinds] == [2, 3, 4, 5]
    text = readme.README.read_text(encoding="utf-8")
    for code in range(6):
        assert f"| {code} |" in text


@pytest.mark.parametrize("name", sorted(readme.BLOCKS))
def test_the_readme_shows_what_the_program_prints(name: str) -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.block(text, name).group(1) == readme.BLOCKS[name](), "run: python tests/readme.py"


@pytest.mark.parametrize("command", sorted(cli.list_commands(click.Context(cli))))
def test_every_command_has_help(command: str) -> None:
    answer = _run(command, "--help")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"Usage: melange-sky {command}")


def test_unknown_command_is_one_line_and_exit_2() -> None:
    answer = _run("plna")
    assert answer.returncode == 2
    assert "No such command 'plna'" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_wheel_ships_the_three_folders_and_no_tests(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
        timeout=110,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", *SHIPPED], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert tracked
    for file in tracked:
        assert f"melange_sky/_data/{file}" in names
    assert not any(
        name.startswith(("tests/", *(f"{folder}/" for folder in SHIPPED))) for name in names
    )
    assert "melange_sky/py.typed" in names
    for page in ("pages/spec.md", "fields/spec.yaml"):
        assert f"melange_sky/help/{page}" in names
