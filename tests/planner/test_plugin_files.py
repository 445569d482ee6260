"""Installing and removing the plugin leaves SkyPilot's files as they were but for the shown lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan
from melange_sky.planner.plugin_files import (
    GUARD,
    PLUGIN,
    FileChange,
    install_changes,
    plugin_status,
    remove_changes,
)
from melange_sky.planner.yaml_edit import add_item, taken_back
from tests.factories import make_plan

PLUGINS = {
    "none": None,
    "empty": "",
    "comments": "# our plugins\n\n# none yet\n",
    "no key": "controller_wheel_path: /wheels   # ours\n",
    "no last newline": "controller_wheel_path: /wheels",
    "null": "plugins:\n",
    "null, no newline": "plugins:",
    "empty list": "plugins: []  # none yet\n",
    "block": "# head\nplugins:\n  # theirs\n  - class:   a.B\n    parameters: {x: 'y'}\n\n  - class: \"c.D\"\n# tail\n",
    "block, not indented": "plugins:\n- class: a.B\ncontroller_wheel_path: /w\n",
    "flow": "{plugins: [{class: a.B}], controller_wheel_path: /w}\n",
    "json": '{\n "plugins": [\n  {"class": "a.B"}\n ]\n}',
    "json, no key": '{"controller_wheel_path": "/w"}',
    "json, empty": "{}\n",
    "crlf": "plugins:\r\n- class: a.B\r\n",
}
CONFIGS = {
    "none": None,
    "empty": "",
    "other keys": "# head\naws:\n    vpc_name:  'x'   # odd\n\njobs: {controller: {consolidation_mode: true}}\n",
    "own policy": "serve:\n  a: 1\nadmin_policy: their.Policy   # asks the boss\nx: 2\n",
    "own policy, last": "a: 1\nadmin_policy: 'https://policy.example.org/check'",
    "other plugins": "plugins:\n    # theirs\n    other:\n        key: [1,  2]\n",
    "plugins, null": "plugins:\nother: 1\n",
    "our keys": "plugins:\n  melange:\n    guard:\n      max_usd_per_hour: 40   # the budget\n",
    "our keys and own policy": "admin_policy: a.B\nplugins: \n  melange:\n   guard:\n    launch: refuse\n",
    "json": '{\n "allowed_clouds": ["aws"],\n "serve": {"x": 1}\n}',
    "json, own policy": '{"admin_policy": "a.B", "plugins": {"other": {}}}',
    "block scalar at the end": "a: |\n  text\n  more\n",
}


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    folder = tmp_path / "plans" / "chat-plan"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(dump_plan(make_plan()))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Path:
    folder = tmp_path / "sky"
    folder.mkdir()
    return folder


def put(server: Path, name: str, text: str | None) -> Path:
    if text is not None:
        (server / name).write_bytes(text.encode())
    return server / name


def told(path: Path) -> str | None:
    return path.read_bytes().decode() if path.exists() else None


def carry_out(changes: tuple[FileChange, ...]) -> None:
    for change in changes:
        change.write()


def read(path: Path) -> dict[str, object]:
    return yaml.safe_load(path.read_text()) or {}


@pytest.mark.parametrize("text", PLUGINS.values(), ids=PLUGINS)
def test_plugins_yaml_names_the_plugin_and_is_given_back_as_it_was(
    server: Path, plans: Path, text: str | None
) -> None:
    path = put(server, "plugins.yaml", text)
    before = yaml.safe_load(text or "") or {}
    carry_out(install_changes([plans], server))
    entry = {"class": PLUGIN, "parameters": {"plan_dirs": [str(plans)]}}
    assert read(path) == {**before, "plugins": [entry, *(before.get("plugins") or [])]}
    if text is not None and "[" not in text and "{" not in text[:1]:
        assert set(text.splitlines()) <= set(
            told(path).splitlines()
        )  # every line of theirs is there
    assert install_changes([plans], server) == ()
    assert plugin_status(server).plan_dirs == (str(plans),)
    carry_out(remove_changes(server))
    assert told(path) == (text or None)
    assert plugin_status(server).plan_dirs is None


@pytest.mark.parametrize("text", CONFIGS.values(), ids=CONFIGS)
def test_config_yaml_names_the_guard_and_is_given_back_as_it_was(
    server: Path, plans: Path, text: str | None
) -> None:
    path = put(server, "config.yaml", text)
    before = yaml.safe_load(text or "") or {}
    carry_out(install_changes([plans], server, "warn"))
    after = read(path)
    policy = before.get("admin_policy")
    own = ((before.get("plugins") or {}).get("melange") or {}).get("guard") or {}
    guard = after["plugins"]["melange"]["guard"]
    assert after["admin_policy"] == GUARD
    assert guard == {"launch": "warn", **own, **({} if policy is None else {"policy": policy})}
    kept = {k: v for k, v in before.items() if k not in ("admin_policy", "plugins")}
    assert {k: v for k, v in after.items() if k not in ("admin_policy", "plugins")} == kept
    status = plugin_status(server)
    assert (status.guard, status.policy) == (guard["launch"], policy)
    assert install_changes([plans], server, guard["launch"]) == ()
    carry_out(remove_changes(server))
    assert told(path) == (text or None)


def test_folders_are_added_to_those_that_are_there(server: Path, plans: Path) -> None:
    other = plans.parent / "other"
    other.mkdir()
    (other / "plan.json").write_text("{}")
    carry_out(install_changes([plans], server))
    carry_out(install_changes([other], server))
    assert plugin_status(server).plan_dirs == (str(plans), str(other))
    assert told(server / "plugins.yaml").count(PLUGIN) == 1


def test_gateways_are_added_by_fleet_and_stay_when_folders_come(server: Path, plans: Path) -> None:
    chat, other = ["chat=http://10.0.0.2:8000"], ["other=http://a:1", "other=http://b:2"]
    carry_out(install_changes([plans], server, gateways=chat))
    assert install_changes([plans], server, gateways=chat) == ()
    carry_out(install_changes([plans], server, gateways=other))
    reserve = plans.parent / "reserve"
    reserve.mkdir()
    (reserve / "reserve.json").write_text("{}")
    carry_out(install_changes([reserve], server))
    status = plugin_status(server)
    assert status.plan_dirs == (str(plans), str(reserve))
    assert status.gateways == {
        "chat": ("http://10.0.0.2:8000",),
        "other": ("http://a:1", "http://b:2"),
    }
    carry_out(remove_changes(server))
    assert told(server / "plugins.yaml") is None and plugin_status(server).gateways is None
    with pytest.raises(InputError, match=r"--gateway: '10\.0\.0\.2' is not http://HOST"):
        install_changes([plans], server, gateways=["chat=10.0.0.2"])
    with pytest.raises(InputError, match="--gateway: 'http://a:1' is not FLEET=URL"):
        install_changes([plans], server, gateways=["http://a:1"])


def test_the_guards_mode_changes_and_the_own_policy_stays_behind_it(
    server: Path, plans: Path
) -> None:
    text = "admin_policy: a.B  # ours\n"
    path = put(server, "config.yaml", text)
    carry_out(install_changes([plans], server, "warn"))
    carry_out(install_changes([plans], server, "refuse"))
    assert read(path)["plugins"]["melange"]["guard"] == {"launch": "refuse", "policy": "a.B"}
    carry_out(remove_changes(server))
    assert told(path) == text


def test_a_mode_written_by_hand_is_not_changed(server: Path, plans: Path) -> None:
    put(server, "config.yaml", "plugins:\n  melange:\n    guard: {launch: off}\n")
    carry_out(install_changes([plans], server, "off"))
    with pytest.raises(
        InputError, match=r"guard\.launch is 'off' by your own hand; change it there"
    ):
        install_changes([plans], server, "refuse")


def test_lines_whose_marks_a_program_took_away_are_found_by_their_place(
    server: Path, plans: Path
) -> None:
    plugins = put(server, "plugins.yaml", "plugins:\n- class: a.B\n")
    config = put(server, "config.yaml", "admin_policy: a.B\nx: 1\n")
    carry_out(install_changes([plans], server, "warn"))
    for path in (plugins, config):  # as SkyPilot's dashboard writes its configuration
        path.write_text(yaml.safe_dump(read(path), sort_keys=False))
    carry_out(install_changes([plans], server, "refuse"))
    assert plugin_status(server).guard == "refuse"
    carry_out(remove_changes(server))
    assert read(plugins) == {"plugins": [{"class": "a.B"}]}
    assert read(config) == {"admin_policy": "a.B", "x": 1}


def test_a_link_to_a_file_kept_elsewhere_stays_a_link(server: Path, plans: Path) -> None:
    real = server.parent / "dotfiles.yaml"
    real.write_text("plugins:\n- class: a.B\n")
    (server / "plugins.yaml").symlink_to(real)
    carry_out(install_changes([plans], server))
    assert (server / "plugins.yaml").is_symlink() and PLUGIN in real.read_text()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plugins.yaml", "a: [", "plugins.yaml, line 1: is not YAML that can be read"),
        ("plugins.yaml", "- a\n", "plugins.yaml: must be a mapping of keys, as SkyPilot has it"),
        ("plugins.yaml", "plugins: a\n", "plugins.yaml: 'plugins' must be a list"),
        (
            "plugins.yaml",
            "plugins: null\n",
            "plugins.yaml: cannot be changed without touching other lines (its form leaves no place for more lines); `melange-sky help plugin` says what to write there by hand",
        ),
    ],
)
def test_what_cannot_be_changed_line_by_line_is_left_alone(
    server: Path, plans: Path, name: str, text: str, message: str
) -> None:
    path = put(server, name, text)
    with pytest.raises(InputError) as error:
        install_changes([plans], server)
    assert str(error.value) == f"{server}/{message}"
    assert told(path) == text


def test_a_folder_without_plans_is_refused(server: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sky: holds neither plan\.json nor reserve\.json"):
        install_changes([server], server)
    with pytest.raises(InputError, match="gone: is not a folder; give one that `plan -o` wrote"):
        install_changes([tmp_path / "gone"], server)


def test_an_end_that_is_gone_takes_nothing_with_it() -> None:
    text = add_item("plugins:\n- class: a.B\n", "f", "plugins", {"class": "x.Y"})
    broken = "".join(line for line in text.splitlines(keepends=True) if "<<<" not in line)
    assert taken_back(broken) == broken
