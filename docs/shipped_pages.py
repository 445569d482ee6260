"""A hook of MkDocs: the pages that ship with the program, and texts that stand beside what they describe."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from melange_sky.help import Style, page_text, topics

_FILE = re.compile(r"^<!-- file: (\S+) -->$", re.MULTILINE)

ROOT = Path(__file__).resolve().parent.parent
BESIDE = {"security.md": "SECURITY.md"}
"""Page of the site → file of the repository."""

ELSEWHERE = {
    "profiling/README.md": "accuracy.md",
    "catalogs/README.md": "price-rules.md",
    "SECURITY.md": "security.md",
}
"""File of the repository → the page that it is here."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in `docs/`."""
    texts = {f"{topic}.md": page_text(topic, Style.SITE) for topic in topics()}
    texts |= {page: (ROOT / file).read_text(encoding="utf-8") for page, file in BESIDE.items()}
    for page, text in texts.items():
        files.append(File.generated(config, page, content=_with_site_links(text)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Show the files that a page names by `<!-- file: PATH -->`."""
    return _FILE.sub(_shown, markdown)


def _shown(named: re.Match[str]) -> str:
    text = (ROOT / named[1]).read_text(encoding="utf-8").strip()
    return f'```yaml title="{named[1]}"\n{text}\n```'


def _with_site_links(text: str) -> str:
    """Let links to files that are pages here lead to these pages."""
    for file, page in ELSEWHERE.items():
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(file)}\)", f"]({page})", text)
    return text
