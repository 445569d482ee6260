"""The site is built as `make lint` builds it: every link leads somewhere, nothing is fetched when it is read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from melange_sky.help import topics

ROOT = Path(__file__).resolve().parent.parent.parent


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in (*topics(), "tour", "examples", "optimum", "accuracy", "price-rules", "security"):
        assert (site / page / "index.html").is_file(), page
    assert not list(site.rglob("*.py"))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r'(?:src|<link[^>]* href)="(https?:[^"]+)"', text)
        assert not loads, f"{page}: {loads}"


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    for name in (
        "docs",
        "examples",
        "mkdocs.yml",
        "profiling/README.md",
        "catalogs/README.md",
        "SECURITY.md",
    ):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            copy.mkdir()
            for file in (ROOT / name).iterdir():
                if file.is_file():
                    (copy / file.name).write_bytes(file.read_bytes())
        else:
            copy.write_bytes((ROOT / name).read_bytes())
    tour = tmp_path / "docs" / "tour.md"
    tour.write_text(tour.read_text() + "\n[gone](gone.md), [no place](spec.md#nowhere)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "gone.md" in done.stderr
    assert "#nowhere" in done.stderr


def test_an_example_is_shown_as_it_lies(site: Path) -> None:
    text = (site / "examples" / "index.html").read_text(encoding="utf-8")
    assert "&lt;!-- file" not in text
    assert "<!-- file" not in text
    assert text.count('class="filename"') == 7
