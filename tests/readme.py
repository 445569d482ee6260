"""Parts of the README that the program itself prints, kept equal by a test.

`python tests/readme.py` rewrites them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def _run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "melange_sky", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    ).stdout


def real_help() -> str:
    """Return what `melange-sky --help` prints."""
    return _run("--help").strip()


def real_plan() -> str:
    """Return what `plan --verify` prints, less what differs from day to day."""
    with tempfile.TemporaryDirectory() as folder:
        asked = ("--offline", "--verify", "-o", f"{folder}/chat-plan")
        text = _run("plan", "examples/chat.yaml", *asked)
    text = text.replace(f"{folder}/", "")
    text = re.sub(r", solved in [0-9.]+ s", "", text)
    # How old the embedded prices are depends on the day.
    lines = [
        line.rstrip() for line in text.splitlines() if not line.startswith("warning [source-old]")
    ]
    return "\n".join(lines).strip()


def spec() -> str:
    """Return the example spec."""
    return (ROOT / "examples" / "chat.yaml").read_text(encoding="utf-8").strip()


BLOCKS = {"help": real_help, "plan": real_plan, "spec": spec}


def block(text: str, name: str) -> re.Match[str]:
    """Return the fenced block between the markers of `name`."""
    found = re.search(rf"<!-- {name} -->\n```[a-z]*\n(.*?)\n```\n<!-- /{name} -->", text, re.DOTALL)
    assert found, f"README.md has no block '{name}'"
    return found


def main() -> None:
    """Rewrite the blocks."""
    text = README.read_text(encoding="utf-8")
    for name, make in BLOCKS.items():
        start, end = block(text, name).span(1)
        text = text[:start] + make() + text[end:]
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
