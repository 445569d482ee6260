"""Machine code is made once a machine, and only one's own is run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from melange_sky.settings import machine_code_dir
from melange_sky.simulator.native import Program, kept, machine

if TYPE_CHECKING:
    from collections.abc import Callable

FACTOR = 3
RUN = """
import sys
from melange_sky.simulator import compiled, simulate_closed_loop
from tests.simulator.test_native import closed_bytes
import hashlib
print(hashlib.sha256(b"".join(closed_bytes())).hexdigest())
print("melange_sky.simulator.native.translation" in sys.modules)
"""


def times(n: int) -> int:
    return thrice(n) + 1


def thrice(n: int) -> int:
    return n * FACTOR


def again(n: int) -> int:
    return thrice(n) + 2


def key() -> str:
    return kept.key_of((times,), machine.made_with())  # type: ignore[arg-type]


def file() -> Path:
    return machine_code_dir() / f"{key()}.o"


def call(n: int = 5) -> int:
    (entry,) = Program(times).entries()
    return int(entry(n))


@pytest.fixture(autouse=True)
def new_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep out what other tests made."""
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path / "new"))


@pytest.fixture
def no_making(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(text: str) -> None:
        raise AssertionError("made anew")

    monkeypatch.setattr(machine, "made", made)


def run_elsewhere() -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, check=True, timeout=100
    )
    result, translates = done.stdout.split()
    return result, translates


def test_a_second_process_does_the_same_without_making_it() -> None:
    first, second = run_elsewhere(), run_elsewhere()
    assert (first[1], second[1]) == ("True", "False")
    assert second[0] == first[0]


def test_several_processes_at_once_keep_it_whole() -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: run_elsewhere()[0], range(3)))
    assert len(set(found)) == 1
    assert {path.suffix for path in machine_code_dir().iterdir()} == {".o"}
    assert run_elsewhere() == (found[0], "False")


def test_what_is_kept_is_loaded(request: pytest.FixtureRequest) -> None:
    assert call() == 16
    assert file().stat().st_mode & 0o777 == 0o600
    assert file().parent.stat().st_mode & 0o777 == 0o700
    request.getfixturevalue("no_making")
    assert call(7) == 22


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:40],
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
    ],
)
def test_a_damaged_file_is_made_again_once(
    damage: Callable[[bytes], bytes], request: pytest.FixtureRequest
) -> None:
    call()
    whole = file().read_bytes()
    file().write_bytes(damage(whole))
    assert call() == 16
    request.getfixturevalue("no_making")
    assert call() == 16


def open_to_others() -> None:
    file().chmod(0o666)


def folder_open_to_others() -> None:
    file().parent.chmod(0o777)


def folder_open_to_the_group() -> None:
    file().parent.chmod(0o770)


def linked() -> None:
    elsewhere = file().rename(file().with_suffix(".elsewhere"))
    file().symlink_to(elsewhere)


def folder_linked() -> None:
    elsewhere = file().parent.rename(file().parent.with_name("elsewhere"))
    machine_code_dir().symlink_to(elsewhere)


def of_another_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(file(), 12345, 12345)


@pytest.mark.parametrize(
    "change",
    [
        open_to_others,
        folder_open_to_others,
        folder_open_to_the_group,
        linked,
        folder_linked,
        of_another_user,
    ],
)
def test_code_that_others_may_write_is_not_run(change: Callable[[], None]) -> None:
    call()
    assert kept.read(key()) is not None
    change()
    assert kept.read(key()) is None
    assert call() == 16


def test_nothing_is_kept_where_others_may_write() -> None:
    machine_code_dir().mkdir(parents=True)
    machine_code_dir().chmod(0o777)
    assert call() == 16
    assert not list(machine_code_dir().iterdir())


def test_a_home_that_cannot_be_written_costs_time_alone() -> None:
    machine_code_dir().parent.mkdir(parents=True, exist_ok=True)
    machine_code_dir().write_text("no folder")
    assert call() == 16


def test_other_constants_sources_and_processors_have_code_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert call() == 16
    before = key()
    assert key() == before
    assert kept.key_of((again,), machine.made_with()) != before  # type: ignore[arg-type]
    assert kept.key_of((times,), (*machine.made_with()[:-1], "+sse2")) != before  # type: ignore[arg-type]
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 4)
    assert key() != before
    assert call() == 21
    monkeypatch.undo()
    sources = {"inspect": kept.inspect.getsource}
    monkeypatch.setattr(kept.inspect, "getsource", lambda module: sources["inspect"](module) + "#")
    assert key() != before


def test_the_oldest_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_FILES", 3)
    now = time.time()
    for n in range(6):
        kept.write(f"k{n}", b"code %d" % n)
        os.utime(machine_code_dir() / f"k{n}.o", (now - 100 + n, now - 100 + n))
    assert sorted(path.stem for path in machine_code_dir().iterdir()) == ["k3", "k4", "k5"]
    assert kept.read("k5") == b"code 5"
