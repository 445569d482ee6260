"""The pages say what is true: their specs are read, their commands exist, all of every reference is shown."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from melange_sky.cli import cli
from melange_sky.errors import InputError
from melange_sky.help import Style, entries_text, page_text, topics
from melange_sky.help import pages as pages_module
from melange_sky.help.texts import documents, field_texts
from melange_sky.spec import load_spec

ROOT = Path(__file__).resolve().parent.parent.parent
SHIPPED = sorted(pages_module.FOLDER.glob("*.md"))
PAGES = [*SHIPPED, *sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_ASKED = re.compile(r"<!-- reference: (\S+) (\S+) -->")
_INLINE = re.compile(r"`(melange-sky [^`]*)`")


def blocks(page: Path, *languages: str) -> list[str]:
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [
        "\n".join(line.removeprefix(indent) for line in text.splitlines())
        for indent, language, text in found
        if language in languages
    ]


def specs() -> list[tuple[str, str]]:
    """Every YAML block that stands for a whole spec."""
    return [
        (f"{page.name}-{n}", text)
        for page in PAGES
        for n, text in enumerate(blocks(page, "yaml"))
        if {"name", "workload"} <= yaml.safe_load(text).keys()
        or {"name", "models"} <= yaml.safe_load(text).keys()
    ]


def commands() -> list[tuple[str, str]]:
    """Every command line of the program that a page shows, in a block or in the text."""
    found = []
    for page in PAGES:
        lines = [
            line.removeprefix("$ ")
            for text in blocks(page, "bash", "console", "sh")
            for line in text.replace("\\\n", " ").splitlines()
        ]
        text = _FENCE.sub("", page.read_text(encoding="utf-8"))
        lines += [" ".join(line.split()) for line in _INLINE.findall(text)]
        found += [(page.name, line) for line in lines if line.startswith("melange-sky ")]
    return sorted(set(found))


def test_every_topic_has_its_page_and_every_page_its_topic() -> None:
    assert {page.stem for page in SHIPPED} | set(pages_module._ELSEWHERE) == set(topics())


@pytest.mark.parametrize("document", documents())
def test_every_entry_is_on_a_page(document: str) -> None:
    shown = "".join(page_text(topic, Style.SITE) for topic in topics())
    missing = [path for path in field_texts(document) if f"| `{path}` |" not in shown]
    assert not missing, f"no page asks for these of {document}: {', '.join(missing)}"


@pytest.mark.parametrize("topic", topics())
def test_a_page_is_shown_as_plain_text_where_it_is_piped(topic: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "melange_sky", "help", topic],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "\x1b" not in done.stdout
    assert "<!--" not in done.stdout
    assert "](" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(("name", "text"), specs(), ids=lambda value: value.split("\n")[0][:30])
def test_a_spec_on_a_page_is_one(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    for file in re.findall(r"[\w./-]+\.(?:csv|yaml|jsonl)(?:\.gz)?", text):
        for folder in (ROOT, ROOT / "examples"):
            if (folder / file).exists():
                (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / file).write_bytes((folder / file).read_bytes())
    assert load_spec(path), name


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_on_a_page_exists_with_its_flags(page: str, line: str) -> None:
    line = re.sub(r"\s+(#|&&|;|\|(?!\w)).*$", "", line)
    words = [word for word in shlex.split(line)[1:] if word not in ("…", "...")]
    context, command = click.Context(cli), cli
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break
        name = words.pop(0)
        if name.isupper() or "|" in name:
            return  # stands for any command
        found = command.get_command(context, name)
        assert found is not None, f"{page}: {line}: no command '{name}'"
        command = found
    flags = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    flags |= {"--help", "-h"}
    for word in words:
        if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            assert word.partition("=")[0] in flags, f"{page}: {line}: no flag '{word}'"


def test_a_word_shows_the_keys_that_it_is_part_of() -> None:
    text = entries_text("spec", "Spot.max")
    assert "`resources.spot.max_fraction` — number 0 to 1, fraction; default: `1.0`" in text
    assert "recovery" not in text
    with pytest.raises(InputError, match=r"^nothing named 'sopt' on the page 'spec'$"):
        entries_text("spec", "sopt")
    with pytest.raises(InputError, match=r"which lists no keys$"):
        entries_text("concepts", "spot")


def test_an_unknown_topic_is_one_line_with_the_topics() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "melange_sky", "help", "spce"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no help on 'spce' (did you mean 'spec'?); topics: ")
    assert done.stderr.count("\n") == 1
