"""Free reserved nodes as SkyPilot's own code counts them: only the clouds' answers are made up."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
import yaml

from melange_sky.offers import ReservedNodes
from melange_sky.planfile import dump_plan, load_plan
from melange_sky.planner import reservations
from melange_sky.planner.plan_spec import plan_spec
from melange_sky.planner.request import PlanRequest
from melange_sky.pricing import OfferQuery
from melange_sky.rendering import render_services
from melange_sky.report.plan_table import plan_table
from melange_sky.skyserve.free_nodes import FreeNodes, Sold, ask_free_nodes
from tests.factories import make_offer
from tests.skycatalog import write_catalogs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from melange_sky.plans import Plan

EC2 = "http://ec2.amazonaws.com/doc/2016-11-15/"
ASKED = Sold(cloud="aws", instance_type="g5.xlarge", region="us-east-1")
SPEC: dict[str, Any] = {
    "name": "chat",
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "slo": {"ttft_ms": 2000, "tpot_ms": 80},
    "workload": {"rate_rps": 9, "input_tokens": 500, "output_tokens": 100},
    "resources": {"accelerators": ["A10G", "L4"], "infra": ["aws"]},
}
OFFERS = [
    make_offer(),
    make_offer(region="us-west-2", price_usd_per_hour=0.9),
    make_offer(instance_type="g6.xlarge", accelerator="L4", price_usd_per_hour=0.8),
    make_offer(
        instance_type="p4de.24xlarge",
        accelerator="A100-80GB",
        accelerator_count=8,
        price_usd_per_hour=27.0,
        spot_usd_per_hour=12.0,
    ),
]


class Ec2(ThreadingHTTPServer):
    """AWS's own side: what it says of reservations, as XML; `delay_s` before each answer."""

    def __init__(self, rows: list[tuple[str, str, str, int, str]], delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.rows = rows
        self.delay_s = delay_s
        self.asked: list[dict[str, list[str]]] = []


class _Answers(BaseHTTPRequestHandler):
    server: Ec2

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        action = form["Action"][0]
        if action == "GetCallerIdentity":
            self._say(
                "<GetCallerIdentityResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'>"
                "<GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/a</Arn><UserId>A</UserId>"
                "<Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
            )
        elif action == "DescribeCapacityReservations":
            self.server.asked.append(form)
            time.sleep(self.server.delay_s)
            kind = form["Filter.1.Value.1"][0]
            items = "".join(_item(row) for row in self.server.rows if row[1] == kind)
            self._say(
                f"<DescribeCapacityReservationsResponse xmlns='{EC2}'><capacityReservationSet>{items}"
                "</capacityReservationSet></DescribeCapacityReservationsResponse>"
            )
        else:
            self._say(
                "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>not yours</Message></Error>"
                "</Errors></Response>",
                403,
            )

    def _say(self, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        """Say nothing."""


def _item(row: tuple[str, str, str, int, str]) -> str:
    name, kind, zone, free, match = row
    return (
        f"<item><capacityReservationId>{name}</capacityReservationId><instanceType>{kind}</instanceType>"
        f"<availabilityZone>{zone}</availabilityZone><availableInstanceCount>{free}</availableInstanceCount>"
        f"<totalInstanceCount>9</totalInstanceCount><instanceMatchCriteria>{match}</instanceMatchCriteria>"
        "<state>active</state></item>"
    )


ROWS = [
    ("cr-open", "g5.xlarge", "us-east-1-a", 1, "open"),
    ("cr-mine", "g5.xlarge", "us-east-1-a", 2, "targeted"),
    ("cr-other", "g5.xlarge", "us-east-1-a", 7, "targeted"),
    ("cr-far", "g5.xlarge", "us-east-1-z", 5, "open"),
    ("cr-none", "g6.xlarge", "us-east-1-a", 0, "open"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_estimates: None) -> Path:
    """Give SkyPilot a home of its own with these offers as its catalog, and a user of AWS."""
    for name in ("SKYPILOT_CONFIG", "SKYPILOT_GLOBAL_CONFIG", "SKYPILOT_PROJECT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.chdir(tmp_path)
    write_catalogs(
        tmp_path,
        [
            *OFFERS,
            make_offer(
                cloud="gcp", region="us-central1", instance_type="g2-standard-4", accelerator="L4"
            ),
        ],
    )
    configure(tmp_path, "aws: {specific_reservations: [cr-mine]}\n")
    reservations._kept.clear()
    return tmp_path


def configure(home: Path, text: str) -> None:
    (home / ".sky").mkdir(exist_ok=True)
    (home / ".sky" / "config.yaml").write_text(text)


@pytest.fixture
def ec2(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ec2]:
    server = Ec2(ROWS)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_skypilot_counts_open_ones_and_named_ones_of_the_zone(ec2: Ec2, home: Path) -> None:
    found = ask_free_nodes(
        [ASKED, Sold(cloud="aws", instance_type="g6.xlarge", region="us-east-1")]
    )
    assert found.failures == ()
    nodes = (("cr-mine", 2), ("cr-open", 1))
    assert found.free == (FreeNodes(sold=ASKED, zone="us-east-1-a", nodes=nodes),)


def test_gcp_is_asked_by_its_own_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(home, "gcp: {specific_reservations: [projects/p/reservations/mine]}\n")
    command = home / "bin" / "gcloud"
    command.parent.mkdir()
    here = "https://compute/v1/projects/p/zones/us-central1-a"
    rows = [
        _gcp(here, "mine", True, 4, 1),
        _gcp(here, "other", True, 4, 0),
        _gcp(here, "any", False, 2, 0),
    ]
    command.write_text(
        f"#!{sys.executable}\nimport sys\nassert 'machineType=g2-standard-4 AND' in ' '.join(sys.argv), sys.argv\n"
        f"print({json.dumps(json.dumps(rows))})\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    sold = Sold(cloud="gcp", instance_type="g2-standard-4", region="us-central1")
    found = ask_free_nodes([sold])
    assert found.failures == ()
    nodes = (("projects/p/reservations/any", 2), ("projects/p/reservations/mine", 3))
    assert found.free == (FreeNodes(sold=sold, zone="us-central1-a", nodes=nodes),)


def _gcp(zone: str, name: str, required: bool, count: int, used: int) -> dict[str, Any]:
    return {
        "selfLink": f"{zone}/reservations/{name}",
        "zone": zone,
        "specificReservation": {"count": str(count), "inUseCount": str(used)},
        "specificReservationRequired": required,
    }


def request(**over: Any) -> PlanRequest:
    return PlanRequest(prices=OfferQuery(**over), sensitivity=False)


def test_a_plan_counts_them_as_paid_and_keeps_to_their_zone(ec2: Ec2, home: Path) -> None:
    planned = plan_spec(SPEC, request())
    (model,) = planned.models
    (paid,) = [a for a in model.allocations if a.fixed_instances]
    option = paid.candidate.option
    assert (option.name, paid.fixed_instances) == ("a10g-1-aws-us-east-1-a-g5.xlarge", 3)
    assert paid.cost_usd_per_hour == pytest.approx((paid.instances - 3) * 1.006)
    assert option.reserved is not None and option.reserved.names == ("cr-mine", "cr-open")
    (note,) = [w.message for w in planned.warnings if w.code == "reservations"]
    assert (
        f"reserved, free now, asked of SkyPilot at {option.reserved.as_of}: 3 x g5.xlarge in "
        in note
    )
    assert "aws/us-east-1/us-east-1-a (cr-mine, cr-open), which this plan counts as paid" in note
    said = plan_table(planned, width=200)
    assert (
        "Already paid for (reserved in us-east-1-a by cr-mine, cr-open, free when SkyPilot was asked at "
        f"{option.reserved.as_of}): 3 × A10G:1; at these prices" in said
    )
    file = home / "plan.json"
    file.write_text(dump_plan(planned))
    assert load_plan(file) == planned
    texts = [t for t in render_services(planned).values() if "us-east-1-a" in t]
    (text,) = texts
    assert yaml.safe_load(text)["resources"]["infra"] == "aws/us-east-1/us-east-1-a"
    assert "# Paid for: 3 of " in text and "(cr-mine, cr-open)" in text
    assert free_by_sky(text, home) == 3


def free_by_sky(text: str, home: Path) -> int:
    """Return what SkyPilot's optimizer would count as free for a rendered service."""
    (home / "service.yaml").write_text(text)
    script = (
        "import sky\n(asked,) = sky.Task.from_yaml('service.yaml').resources\n"
        "print('FREE', sum(asked.get_reservations_available_resources().values()))\n"
    )
    env = {**os.environ, "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, env=env, cwd=home, capture_output=True, text=True, check=True)
    return int(done.stdout.rpartition("FREE ")[2])


def notes_of(plan: Plan) -> str:
    assert not any(a.fixed_instances for m in plan.models for a in m.allocations)
    (note,) = [w.message for w in plan.warnings if w.code == "reservations"]
    return note


def test_offline_they_are_told_and_not_counted(ec2: Ec2) -> None:
    note = notes_of(plan_spec(SPEC, request(offline=True)))
    assert "how many are free only the cloud tells, so this plan counts the full price" in note
    assert ec2.asked == []


def test_a_refusal_of_the_cloud_is_one_line_and_counts_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    note = notes_of(plan_spec(SPEC, request()))
    assert "SkyPilot could not say how many are free (Could not connect to the endpoint" in note
    assert note.endswith("so none is counted") and "\n" not in note


def test_a_slow_cloud_is_not_waited_for(ec2: Ec2) -> None:
    ec2.delay_s = 30.0
    before = time.monotonic()
    found = ask_free_nodes([ASKED], deadline_s=4.0)
    assert time.monotonic() - before < 12
    assert found.free == ()
    assert found.failures == (("aws", "no answer within 4 s for g5.xlarge in us-east-1"),)


def test_what_the_spec_states_is_not_asked_for(ec2: Ec2) -> None:
    fixed = [{"accelerators": "A10G", "infra": "aws/us-east-1", "instances": 1}]
    spec = {**SPEC, "resources": {**SPEC["resources"], "fixed": fixed}}
    plan = plan_spec(spec, request())
    assert not any("us-east-1-a" in a.candidate.option.name for a in plan.models[0].allocations)
    assert {form["Filter.1.Value.1"][0] for form in ec2.asked} == {"g6.xlarge", "g5.xlarge"}


def test_given_nodes_are_counted_and_nothing_is_asked(ec2: Ec2) -> None:
    nodes = ReservedNodes(
        cloud="aws",
        region="us-east-1",
        zone="us-east-1c",
        instance_type="g5.xlarge",
        nodes=1,
        names=("cr-x",),
        as_of="2026-11-01T00:00:00Z",
    )
    given = dataclasses.replace(request(), reserved=(nodes,))
    plan = plan_spec(SPEC, given)
    (paid,) = [a for a in plan.models[0].allocations if a.fixed_instances]
    assert paid.candidate.option.reserved == nodes and paid.fixed_instances == 1
    assert ec2.asked == []
    few = plan_spec({**SPEC, "workload": {**SPEC["workload"], "rate_rps": 0.1}}, given)
    assert few.cost_usd_per_hour == 0


def test_reserved_nodes_on_which_the_model_does_not_fit_are_no_error(ec2: Ec2) -> None:
    spec = {**SPEC, "model": "meta-llama/Llama-3.1-70B-Instruct"}
    spec["resources"] = {"accelerators": ["A10G:1", "A100-80GB:8"], "infra": ["aws"]}
    plan = plan_spec(spec, request())
    assert plan.constraints.fixed == ()
