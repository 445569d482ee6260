"""The journal: a chain of lines that survives a kill and shows a change of the past."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from melange_sky.errors import InputError
from melange_sky.watching.journal import Journal, read_journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "watch.jsonl"


def test_lines_are_read_back_in_order_and_chained(path: Path) -> None:
    for n in range(3):  # a new process each time
        Journal(path).append({"time": n})
    told = read_journal(path)
    assert [line["time"] for line in told.lines] == [0, 1, 2]
    assert told.lines[0]["previous_hash"] is None
    assert len({line["previous_hash"] for line in told.lines}) == 3
    assert not told.torn


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_was_cut_short_is_dropped_and_the_chain_goes_on(path: Path, cut: int) -> None:
    journal = Journal(path)
    journal.append({"time": 0})
    journal.append({"time": 1})
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_journal(path).torn
    assert len(read_journal(path).lines) == 1
    Journal(path).append({"time": 2})
    assert [line["time"] for line in read_journal(path).lines] == [0, 2]


def test_a_changed_line_is_told_where_the_chain_breaks(path: Path) -> None:
    journal = Journal(path)
    for n in range(3):
        journal.append({"time": n})
    first, *rest = path.read_text().splitlines()
    changed = json.dumps({**json.loads(first), "time": 99})
    path.write_text("\n".join([changed, *rest]) + "\n")
    with pytest.raises(InputError, match=r"watch\.jsonl:2: does not follow from the line before"):
        Journal(path)


@pytest.mark.parametrize("line", ["nonsense", "[1]", "7", '{"time": 1}'])
def test_what_is_no_line_of_a_journal_is_one_line(path: Path, line: str) -> None:
    path.write_text(f"{line}\n")
    with pytest.raises(InputError) as caught:
        read_journal(path)
    assert "\n" not in str(caught.value)
    assert str(path) + ":1:" in str(caught.value)


def test_a_folder_in_its_place_is_one_line(path: Path) -> None:
    path.mkdir()
    with pytest.raises(InputError, match=r"watch\.jsonl: cannot be read: Is a directory"):
        Journal(path)
