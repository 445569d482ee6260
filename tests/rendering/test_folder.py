"""Plan folders: written whole or not at all, never over somebody's work."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.rendering import MANIFEST, write_folder
from melange_sky.rendering.exchange import ASIDE, STAGED, YOUNG_S, exchange, recover
from melange_sky.rendering.shown import REPORT_MARK

FILES = {"plan.json": "{}\n", "a.sky.yaml": "name: a\n"}
OTHERS = {"plan.json": '{"x": 1}\n', "b.sky.yaml": "name: b\n"}


def content(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir() if p.name != MANIFEST}


def alone(folder: Path) -> bool:
    """Nothing but `folder` lies beside it: no temporary file was left."""
    return [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "room" / "chat-plan"


def test_new_empty_and_replaced(folder: Path) -> None:
    write_folder(folder, FILES, force=False)
    assert content(folder) == FILES and alone(folder)
    write_folder(folder, OTHERS, force=False)
    assert content(folder) == OTHERS and alone(folder)
    for path in folder.iterdir():
        path.unlink()
    write_folder(folder, FILES, force=False)
    assert content(folder) == FILES and alone(folder)


def test_permissions_are_those_of_a_plain_mkdir(folder: Path) -> None:
    write_folder(folder, FILES, force=False)
    plain = folder.parent / "plain"
    plain.mkdir()
    assert folder.stat().st_mode == plain.stat().st_mode


def test_a_deleted_file_is_no_edit(folder: Path) -> None:
    write_folder(folder, FILES, force=False)
    (folder / "a.sky.yaml").unlink()
    write_folder(folder, OTHERS, force=False)
    assert content(folder) == OTHERS


@pytest.mark.parametrize("case", ["edited", "foreign", "subfolder", "link", "no-manifest", "junk"])
def test_foreign_or_edited_is_refused(folder: Path, case: str) -> None:
    write_folder(folder, FILES, force=False)
    changes = {
        "edited": lambda: (folder / "a.sky.yaml").write_text("mine"),
        "foreign": lambda: (folder / "notes.txt").write_text("mine"),
        "subfolder": lambda: (folder / "sub").mkdir(),
        "link": lambda: ((folder / "plan.json").unlink(), (folder / "plan.json").symlink_to("/x")),
        "no-manifest": lambda: (folder / MANIFEST).unlink(),
        "junk": lambda: (folder / MANIFEST).write_text("[" * 100_000),
    }
    changes[case]()
    before = sorted((p.name, p.read_bytes() if p.is_file() else b"") for p in folder.iterdir())
    with pytest.raises(InputError, match="--force"):
        write_folder(folder, OTHERS, force=False)
    after = sorted((p.name, p.read_bytes() if p.is_file() else b"") for p in folder.iterdir())
    assert before == after and alone(folder)


def test_force_replaces_ours_and_keeps_theirs(folder: Path) -> None:
    write_folder(folder, FILES, force=False)
    (folder / "a.sky.yaml").write_text("edited")
    (folder / "notes.txt").write_text("mine")
    write_folder(folder, OTHERS, force=True)
    assert content(folder) == {**OTHERS, "notes.txt": "mine"} and alone(folder)


def test_force_into_somebody_elses_folder_deletes_nothing(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years")
    write_folder(folder, FILES, force=True)
    assert content(folder) == {**FILES, "thesis.tex": "years"}


def test_current_folder_stays_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    write_folder(Path(), FILES, force=False)
    assert content(Path.cwd()) == FILES
    write_folder(Path(), OTHERS, force=False)
    assert content(Path.cwd()) == OTHERS and alone(folder)


def test_through_a_link_the_target_is_written(folder: Path) -> None:
    write_folder(folder, FILES, force=False)
    link = folder.parent / "link"
    link.symlink_to(folder)
    write_folder(link, OTHERS, force=False)
    assert link.is_symlink() and content(folder) == OTHERS


def test_not_a_folder_and_not_writable(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file")
    with pytest.raises(InputError, match=r"chat-plan/below/this': '.*/chat-plan' is a file"):
        write_folder(folder / "below" / "this", FILES, force=True)
    with pytest.raises(InputError, match="it is a file"):
        write_folder(folder, FILES, force=True)
    with pytest.raises(InputError, match="cannot write folder"):
        write_folder(folder / "below", FILES, force=True)
    with pytest.raises(InputError, match="cannot write folder"):
        write_folder(Path("/proc/nowhere/plan"), FILES, force=False)
    with pytest.raises(InputError, match="folder '/' holds files"):
        write_folder(Path("/"), FILES, force=False)
    assert folder.read_text() == "a file" and alone(folder)


def test_a_failure_on_the_way_leaves_the_old_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(folder, FILES, force=False)
    monkeypatch.setattr("melange_sky.rendering.folder.exchange", lambda *_: False)
    real = Path.rename

    def full_disk(self: Path, target: Path) -> Path:
        if target == folder and "-old-" not in self.name:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_folder(folder, OTHERS, force=False)
    assert content(folder) == FILES and alone(folder)


def test_a_manifest_cannot_reach_outside(folder: Path) -> None:
    write_folder(folder, FILES, force=False)
    victim = folder.parent / "victim"
    victim.write_text("keep")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["sha256"]["../victim"] = "0"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError):
        write_folder(folder, OTHERS, force=False)
    write_folder(folder, OTHERS, force=True)
    assert victim.read_text() == "keep"


def test_pipes_are_not_read(folder: Path) -> None:
    write_folder(folder, FILES, force=False)
    (folder / "plan.json").unlink()
    os.mkfifo(folder / "plan.json")
    with pytest.raises(InputError):
        write_folder(folder, OTHERS, force=False)


@pytest.mark.parametrize("name", ["backends", "routes.json"])
def test_what_apply_wrote_beside_a_plan_stays_and_is_no_foreign_file(
    folder: Path, name: str
) -> None:
    write_folder(folder, FILES, force=False)
    (folder / name).write_text("a10g=http://10.0.0.1:30001")
    write_folder(folder, OTHERS, force=False)
    assert content(folder) == {**OTHERS, name: "a10g=http://10.0.0.1:30001"} and alone(folder)


@pytest.mark.parametrize(
    ("name", "text", "stays"),
    [
        ("report.html", f'<!DOCTYPE html><head>{REPORT_MARK}"></head>', True),
        ("Costs.SVG", "<?xml?><metadata><dc:title>melange-sky</dc:title></metadata>", True),
        ("notes.html", "<!DOCTYPE html><head></head>", False),
        ("report.html", " " * 5000 + REPORT_MARK, False),
        ("report.txt", REPORT_MARK, False),
    ],
)
def test_reports_beside_a_plan_stay_and_are_no_foreign_files(
    folder: Path, name: str, text: str, stays: bool
) -> None:
    write_folder(folder, FILES, force=False)
    (folder / name).write_text(text)
    if stays:
        write_folder(folder, OTHERS, force=False)
        assert content(folder) == {**OTHERS, name: text} and alone(folder)
    else:
        with pytest.raises(InputError, match=f"were edited since: {name}; choose"):
            write_folder(folder, OTHERS, force=False)
        assert content(folder) == {**FILES, name: text}


def test_folders_change_places(folder: Path) -> None:
    other = folder.parent / "other"
    write_folder(folder, FILES, force=False)
    write_folder(other, OTHERS, force=False)
    if not exchange(folder, other):
        pytest.skip("this file system cannot exchange folders")
    assert (content(folder), content(other)) == (OTHERS, FILES)
    assert not exchange(folder, folder.parent / "nowhere") and content(folder) == OTHERS


def test_a_folder_that_was_put_aside_is_put_back(folder: Path) -> None:
    """What versions without an exchange left when they were killed between their two renames."""
    write_folder(folder, FILES, force=False)
    folder.rename(folder.parent / f".{folder.name}{ASIDE}abcd_123")
    left = folder.parent / f".{folder.name}{STAGED}abcd1234"
    left.mkdir()
    (left / "half").write_text("x")
    os.utime(left, (time.time() - 2 * YOUNG_S,) * 2)
    theirs = folder.parent / f".{folder.name}-notes"
    theirs.mkdir()
    recover(folder)
    assert content(folder) == FILES
    assert {p.name for p in folder.parent.iterdir()} == {folder.name, theirs.name}


WRITER = """
import sys
from pathlib import Path
from melange_sky.rendering import folder
if sys.argv[2] == "renames":
    folder.exchange = lambda *_: False
files = [{f"{n}.sky.yaml": text * 20000 for n in range(8)} for text in ("a", "b")]
print("ready", flush=True)
while True:
    for each in files:
        folder.write_folder(Path(sys.argv[1]), each, force=False)
"""


def whole(folder: Path) -> bool:
    """All files are there as the manifest says."""
    listed = json.loads((folder / MANIFEST).read_text())["sha256"]
    return len(listed) == 8 and all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        for name, digest in listed.items()
    )


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_killed_process_never_loses_the_folder(folder: Path, way: str) -> None:
    rng = random.Random(way)
    write_folder(folder, {f"{n}.sky.yaml": "first" for n in range(8)}, force=False)
    for _ in range(int(os.environ.get("MELANGE_SKY_KILLS", "8"))):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), way], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.1))
            writer.send_signal(signal.SIGKILL)
        if way == "renames":
            recover(folder)
        assert whole(folder)
    for left in folder.parent.iterdir():
        os.utime(left, (time.time() - 2 * YOUNG_S,) * 2)
    write_folder(folder, FILES, force=True)
    assert alone(folder)
