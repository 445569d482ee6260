"""The environment is read in one place, and says what it says everywhere."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import melange_sky
from melange_sky import settings
from melange_sky.errors import InputError

PACKAGE = Path(melange_sky.__file__).parent
APART = {"settings.py", "profiler/job.py", "profiler/bench.py"}
"""The settings, the job's own protocol, and a child that inherits the environment whole."""


def reads_environment(source: str) -> bool:
    names = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return bool(names & {"environ", "getenv", "user_data_dir"})


def test_nothing_else_reads_the_environment():
    readers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if reads_environment(path.read_text(encoding="utf-8"))
    }
    assert readers == APART


def test_home_is_where_the_variable_says_else_the_platform_s(monkeypatch, tmp_path):
    monkeypatch.setenv("MELANGE_SKY_HOME", str(tmp_path))
    assert settings.home_dir() == tmp_path
    folders = (settings.prices_dir(), settings.profiles_dir(), settings.estimates_dir())
    assert folders == (tmp_path / "prices", tmp_path / "profiles", tmp_path / "estimates")
    assert settings.machine_code_dir() == tmp_path / "code"
    monkeypatch.delenv("MELANGE_SKY_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert settings.home_dir().name == "melange-sky"


@pytest.mark.parametrize(
    ("value", "offline"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)]
)
def test_offline(monkeypatch, value, offline):
    monkeypatch.delenv("MELANGE_SKY_OFFLINE", raising=False)
    if value is not None:
        monkeypatch.setenv("MELANGE_SKY_OFFLINE", value)
    assert settings.is_offline() is offline
    assert settings.is_offline(True)


def test_a_catalog_s_address_has_no_mirror(monkeypatch):
    monkeypatch.delenv("MELANGE_SKY_CATALOG_URL", raising=False)
    assert len(settings.catalog_addresses().of("aws")) == 2
    monkeypatch.setenv("MELANGE_SKY_CATALOG_URL", "http://mine/")
    monkeypatch.setenv("MELANGE_SKY_CATALOG_SCHEMA", "v9")
    assert settings.catalog_addresses().of("aws") == ("http://mine/v9/aws/vms.csv",)


def test_a_date_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(InputError) as caught:
        settings.source_date_epoch()
    assert str(caught.value) == "SOURCE_DATE_EPOCH must be a whole number of seconds since 1970"


def test_an_empty_secret_is_none(monkeypatch):
    monkeypatch.setenv("KEY_ONE", "")
    monkeypatch.setenv("KEY_TWO", "value")
    assert settings.secrets(("KEY_ONE", "KEY_TWO", "KEY_THREE")) == {"KEY_TWO": "value"}


def test_what_is_handed_on_to_a_later_command_holds_no_password(monkeypatch):
    monkeypatch.setenv("MELANGE_SKY_HOME", "/data")
    monkeypatch.setenv("SKYPILOT_API_SERVER_ENDPOINT", "https://user:pass@sky.example")
    assert settings.handed_on() == {"MELANGE_SKY_HOME": "/data"}
    monkeypatch.setenv("SKYPILOT_API_SERVER_ENDPOINT", "https://sky.example")
    assert settings.handed_on()["SKYPILOT_API_SERVER_ENDPOINT"] == "https://sky.example"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("150000 100000", 2), ("20000 100000", 1), ("900000 100000", 4), (None, 4)],
)
def test_cores_are_those_that_may_be_used(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota + "\n")
    monkeypatch.setattr(settings, "CPU_QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5, 7}, raising=False)
    assert settings.usable_cores() == cores
