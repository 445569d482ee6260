"""The exported folder: what stands in it, whatever the plan's texts are, and how it is written."""

from __future__ import annotations

import dataclasses
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from melange_sky.errors import InputError
from melange_sky.planfile import dump_plan
from melange_sky.planner.haproxy_export import export_haproxy
from melange_sky.planner.serving import ServeOptions
from melange_sky.plans import Plan
from melange_sky.routing import Router, slots
from tests.cli.runner import melange_sky
from tests.gateway.bed import MODEL, split_plan
from tests.haproxy.bed import needs_haproxy

URLS = ("small=http://127.0.0.1:8001", "big=https://localhost:8443*4")


def export(
    plan: Plan, folder: Path, *, force: bool = False, backends: tuple[str, ...] = URLS, **over: Any
) -> dict[str, str]:
    export_haproxy(plan, ServeOptions(backends=backends, **over), folder, force=force)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def check(folder: Path) -> str:
    """What HAProxy says of a configuration that it takes."""
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(folder / "haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def with_texts(plan: Plan, rng: random.Random, odd: Callable[[], str]) -> Plan:
    """The plan with other texts where a file may bring any."""
    (model,) = plan.models
    names = iter([odd(), odd() + "2"])
    allocations = []
    for allocation in model.allocations:
        option = dataclasses.replace(allocation.candidate.option, name=next(names))
        candidate = dataclasses.replace(allocation.candidate, option=option)
        allocations.append(dataclasses.replace(allocation, candidate=candidate))
    args = (
        ("--served-model-name", odd(), "--lora-modules", f"{odd()}=x") if rng.random() < 0.5 else ()
    )
    model = dataclasses.replace(
        model,
        name=odd(),
        model=odd(),
        allocations=tuple(allocations),
        engine=dataclasses.replace(model.engine, args=args),
    )
    return dataclasses.replace(plan, models=(model,))


PIECES = [
    "\n    server evil 10.0.0.1:80", '"', "'", "\\", "]]", "]==]", "${HOME}", "%[env(HOME)]", "#", "--",
    "\x00", "\r\nuser root", "};os.execute('x')", "]]os.exit()", "\u202e", "é", "\ud800", "{{bind}}",
    "backend x", " ", "\t", "a", "Z", "%n%s", "`id`", "$(id)", "x" * 300,
]  # fmt: skip


@needs_haproxy
def test_no_text_of_a_plan_becomes_configuration_or_program(tmp_path: Path) -> None:
    rng = random.Random(3)
    plain = export(split_plan(), tmp_path / "plain")["haproxy.cfg"]

    def shape(config: str) -> list[str]:
        """The statements, without what stands in comments, and without names."""
        lines = (line.strip() for line in config.splitlines())
        kept = [line for line in lines if line and not line.startswith("#")]
        return [line.split()[0] for line in kept]

    for at in range(60):
        plan = with_texts(
            split_plan(), rng, lambda: "".join(rng.choices(PIECES, k=rng.randrange(1, 5)))
        )
        names = [a.candidate.option.name for a in plan.models[0].allocations]
        folder = tmp_path / str(at)
        urls = (f"{names[0]}=http://127.0.0.1:1",) if "=" not in names[0] else None
        if urls is None or not names[0].strip() or names[0] != names[0].strip():
            continue
        try:
            files = export(plan, folder, backends=urls)
        except InputError as error:
            assert len(str(error).splitlines()) == 1
            continue
        assert "evil" not in [line.split()[1] for line in servers(files["haproxy.cfg"])]
        assert shape(files["haproxy.cfg"]) == shape(plain)[:-1], (
            "the same statements, but for the second server"
        )
        assert "evil" not in check(folder)


def servers(config: str) -> list[str]:
    lines = (line.strip() for line in config.splitlines())
    return [line for line in lines if line.startswith("server ")]


def test_the_plans_shares_are_the_routers_own(tmp_path: Path) -> None:
    plan = split_plan(left=0.7)
    text = export(plan, tmp_path / "out")["plan.lua"]
    router = Router(plan.models[0], random.Random(0), replicas=[1, 4])
    for c in range(4):
        row = ", ".join(repr(share) for share in router.expected_shares(c).values())
        assert "{" + row + "}" in text


def test_slots_are_littles_law(tmp_path: Path) -> None:
    plan = split_plan(rate=5.0).models[0]
    table = Router(plan, random.Random(0)).table
    # 5 req/s, each there for TTFT 2 s + 49 × 60 ms
    assert slots(plan, table) == pytest.approx([5 * (2 + 0.06 * 49)] * 2)


@needs_haproxy
@pytest.mark.parametrize(
    "over",
    [
        {},
        {"host": "0.0.0.0", "no_key": True},
        {"host": "::1"},
        {"gateways": 7},
        {"body_bytes": 100_000, "queue_wait_s": 0.0, "first_byte_s": 0.5, "drain_s": 0.0},
        {"backends": ("small=http://[::1]:8001", "big=localhost:9*1024")},
        {"backends": ("small=http://10.0.0.1",)},
    ],
)
def test_haproxy_takes_what_is_written(tmp_path: Path, over: dict[str, Any]) -> None:
    folder = tmp_path / "with 'a' quote"
    export(split_plan(), folder, **over)
    assert "WARNING" not in check(folder)


def test_no_time_is_written_as_none(tmp_path: Path) -> None:
    """To HAProxy a time of 0 is no limit at all."""
    over = {"drain_s": 0.0, "queue_wait_s": 0.0, "first_byte_s": 0.1}
    config = export(split_plan(), tmp_path / "out", **over)["haproxy.cfg"]
    for name in ("hard-stop-after", "timeout queue", "timeout server"):
        assert f"    {name} 1s\n" in config


@needs_haproxy
def test_certificates_are_named_not_copied(tmp_path: Path) -> None:
    pem, ca = tmp_path / "front end.pem", tmp_path / "ca's.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x"),
            *("-keyout", f"{pem}.key", "-out", str(pem)),
        ],
        check=True,
        capture_output=True,
    )
    shutil.copy(pem, ca)
    files = export(
        split_plan(), tmp_path / "out", tls_cert=pem, tls_key=Path(f"{pem}.key"), replica_ca=ca
    )
    check(tmp_path / "out")
    assert not any("PRIVATE KEY" in text for text in files.values())
    with pytest.raises(InputError, match=r"--tls-key: HAProxy takes a certificate's key from"):
        export(split_plan(), tmp_path / "out", tls_cert=pem, tls_key=ca)


@needs_haproxy
def test_without_a_key_it_does_not_start_where_others_reach_it(tmp_path: Path) -> None:
    export(split_plan(), tmp_path / "out", host="0.0.0.0")
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(tmp_path / "out/haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin"},
    )
    assert done.returncode != 0
    assert "set MELANGE_SKY_API_KEY" in done.stderr


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"backends": ()}, "no backend: give --backend OPTION=URL"),
    ({"backends": ("tiny=http://a",)}, "backend: the plan has no option 'tiny'"),
    (
        {"backends": ("small=http://10.0.0.1/v1",)},
        "a URL with a path cannot be exported to HAProxy",
    ),
    ({"backends": ("small=http://[fe80::1%25eth0]:80",)}, "an address with a zone cannot"),
    ({"port": 0}, "--port 0: HAProxy needs a port of its own"),
    ({"tokenizer": Path("x")}, "--tokenizer: HAProxy has none"),
    ({"affinity": "prefix"}, "--affinity prefix: HAProxy keeps sessions together"),
    ({"observed": Path("x")}, "--observed: HAProxy counts no tokens"),
    ({"api_key_file": Path("/nowhere")}, "--api-key-file: /nowhere: no such file"),
    ({"host": "a b"}, "--host: 'a b' is not a host that HAProxy can be given"),
]


@pytest.mark.parametrize(("over", "message"), REFUSED)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(
    tmp_path: Path, over: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        export(split_plan(), tmp_path / "out", **over)
    assert message in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_replaces_its_own_and_refuses_others_folders(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(dump_plan(split_plan()), encoding="utf-8")
    out = tmp_path / "out"

    def command(*more: str) -> tuple[int, str, str]:
        done = melange_sky("gateway", str(plan), f"--backend={URLS[0]}", *more)
        return done.returncode, done.stdout, done.stderr

    code, told, warned = command("--export", "haproxy", str(out))
    assert (code, told.splitlines()[0]) == (0, f"Wrote {out}/haproxy.cfg for {MODEL}")
    assert warned == "warning: chat: no backend for option big\n"
    assert command("--export", "haproxy", str(out))[0] == 0
    config = out / "haproxy.cfg"
    config.write_text(config.read_text() + "# mine\n")
    code, told, error = command("--export", "haproxy", str(out))
    assert (code, told) == (2, "") and "or that were edited since: haproxy.cfg" in error
    assert config.read_text().endswith("# mine\n")
    assert command("--export", "haproxy", str(out), "--force")[0] == 0
    assert "# mine" not in config.read_text()
    assert command("--export", "nginx", str(out))[0] == 2
    assert command("--force", "--port", "0")[0] == 2
