"""Shell completion works as `help setup` says, in the shells that are here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from melange_sky.help.pages import FOLDER

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
PAGE = (FOLDER / "setup.md").read_text(encoding="utf-8")

ASK = {
    "bash": """{line}
COMP_WORDS=(melange-sky {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_melange_sky_completion melange-sky
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """autoload -U compinit; compinit -u -d {folder}/dump
{line}
[ "$_comps[melange-sky]" = _melange_sky_completion ] || exit 1
COMP_WORDS="melange-sky {words}" COMP_CWORD=$(( ${{(w)#:-melange-sky {words}}} - 1 )) \\
  _MELANGE_SKY_COMPLETE=zsh_complete melange-sky
""",
    "fish": """{line}
complete -C "melange-sky {words}"
""",
}
"""What asks each shell for completions, after the page's line."""


def line_of(shell: str) -> str:
    found = re.search(rf"^.*_MELANGE_SKY_COMPLETE={shell}_source.*$", PAGE, re.MULTILINE)
    assert found
    return found.group()


@pytest.mark.skipif(
    not (SCRIPTS / "melange-sky").exists(), reason="the command is not installed here"
)
@pytest.mark.parametrize(
    ("words", "wanted"),
    [("pla", {"plan"}), ("help pl", {"plan-json"}), ("plan --conf", {"--confidence"})],
)
@pytest.mark.parametrize("shell", ASK)
def test_words_are_completed(shell: str, words: str, wanted: set[str], tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    script = ASK[shell].format(line=line_of(shell), words=words, folder=tmp_path)
    done = subprocess.run(
        [program, *(("-f",) if shell == "zsh" else ()), "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
        },
    )
    assert wanted <= {row.split("\t")[0] for row in done.stdout.splitlines()}, done
