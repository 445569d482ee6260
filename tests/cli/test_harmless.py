"""What catalogs and plans bring reaches a terminal as text: nothing moves the cursor or reorders a line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from melange_sky.cli.harmless import HarmlessStream, harmless
from melange_sky.planfile import dump_plan
from tests.cli.runner import melange_sky
from tests.factories import make_plan

ODD = "g5\x1b]0;owned\x07\u202exlarge\x9b2J"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain, with\ttabs\nand lines",
        "a CSV line\r\n",
        "3 × L4, ≥ 95 %, 10 – 20, naïve, 模型, 😀",
        "no-break\u00a0space",
        "\x1b[38;5;255m\x1b[48;5;18mshade\x1b[0m",
    ],
)
def test_what_people_read_stays(text: str) -> None:
    assert harmless(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]8;;http://x\x07", "\\x1b]8;;http://x\\x07"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("over\rwritten", "over\\rwritten"),
        ("\x9b31m", "\\x9b31m"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_terminals_obey_is_shown_as_its_code(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_a_stream_says_how_much_was_given_and_is_the_other_in_all_else() -> None:
    inner = io.StringIO()
    stream = HarmlessStream(inner)
    assert stream.write("a\x1bb") == 3
    assert stream.getvalue() == "a\\x1bb"
    with pytest.raises(TypeError):
        stream.write(b"a")  # type: ignore[arg-type] # as click tells text from bytes


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "PLAN", "--no-replay"),
        ("simulate", "PLAN", "--duration", "5"),
        ("plan", "OFFERS"),
        ("prices", "list", "--offers"),
    ],
)
def test_no_command_lets_it_through(tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "plan.json"
    text = json.dumps(ODD)[1:-1]
    shown = "A10G" if words[0] == "explain" else "a10g"  # the accelerator, the option
    file.write_text(dump_plan(make_plan()).replace(shown, f"{shown}{text}"))
    offers = tmp_path / "offers.csv"
    offers.write_text(
        "cloud,region,instance_type,accelerator,accelerator_count,price_usd_per_hour\n"
        f"aws,us{ODD},x{ODD},A10G,1,1.0\n"
    )
    named = {"PLAN": (str(file),), "OFFERS": ("examples/chat.yaml", "--offline", "--offers")}
    arguments = [w for word in words for w in named.get(word, (word,))]
    if arguments[-1] == "--offers":
        arguments += [str(offers), *(("-o", str(tmp_path / "out")) if words[0] == "plan" else ())]
    done = melange_sky(*arguments)
    said = done.stdout + done.stderr
    assert "\\x1b" in said or "\\u202e" in said, said
    assert not any(c in said for c in "\x1b\x07\u202e\x9b")
