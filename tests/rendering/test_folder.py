"""Plan folders: written whole or not at all, never over somebody's work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.rendering import MANIFEST, write_folder

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
